extends Node
## Measures what recording costs a game, beside what games do without Sidekick.
##
## User arguments: `--out DIR`, `--port UDP_PORT`. For each state of the watchdog it waits for `DIR/go-<state>`, measures one
## round a frame, and writes `DIR/<state>.json`: nanoseconds per call for each case and round, and single calls in whole
## microseconds. All cases take turns within a round, so that whatever disturbs the machine disturbs all.

const STATES: Array[String] = ["running", "stopped", "killed", "spilling"]
const CASES: Array[String] = ["empty_loop", "dictionary", "empty_call", "var_to_bytes", "record", "json_line", "udp_send"]
const SINGLE_CASES: Array[String] = ["nothing", "record", "json_line", "udp_send"]
const ROUNDS := 120
const BATCH := 200
const SINGLES := 200
## More than one ring holds, in records of 60,000 bytes.
const FILL := 300

var _out := ""
var _data := {"player": 17, "position": Vector3(1.0, 2.0, 3.0), "action": "jump", "health": 93.5}
var _file: FileAccess
var _udp := PacketPeerUDP.new()
var _state := 0
var _round := -1
var _batches := {}
var _singles := {}


func _ready() -> void:
	Engine.max_fps = 60
	var arguments := OS.get_cmdline_user_args()
	_out = arguments[arguments.find("--out") + 1]
	_file = FileAccess.open(_out + "/peer.ndjson", FileAccess.WRITE)
	_udp.connect_to_host("127.0.0.1", arguments[arguments.find("--port") + 1].to_int())
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	if _state == STATES.size():
		return
	if _round < 0:
		if FileAccess.file_exists(_out + "/go-" + STATES[_state]):
			_begin()
		return
	# The order changes, so that no case always follows the same one. Round 0 warms up and is dropped.
	for number in CASES.size():
		var case := CASES[(number + _round) % CASES.size()]
		var ns := _batch(case) * 1000.0 / BATCH
		if _round > 0:
			_batches[case].append(ns)
	for case in SINGLE_CASES:
		var times := _single(case)
		if _round > 0:
			_singles[case].append_array(times)
	_round += 1
	if _round > ROUNDS:
		_end()


func _begin() -> void:
	_round = 0
	for case in CASES:
		_batches[case] = []
	for case in SINGLE_CASES:
		_singles[case] = []
	if STATES[_state] == "spilling":
		var large := PackedByteArray()
		large.resize(60000)
		for number in FILL:
			Sidekick.record(&"fill", large)


func _end() -> void:
	var path := _out + "/" + STATES[_state] + ".json"
	var file := FileAccess.open(path + ".tmp", FileAccess.WRITE)
	file.store_string(JSON.stringify({"batch": BATCH, "batches": _batches, "singles": _singles, "stats": Sidekick.get_stats()}))
	file.close()
	DirAccess.rename_absolute(path + ".tmp", path)
	_round = -1
	_state += 1


## Microseconds for BATCH calls. Each loop is written out: a call through a Callable would cost more than what is measured.
func _batch(case: String) -> int:
	var data := _data
	var started := Time.get_ticks_usec()
	match case:
		"empty_loop":
			started = Time.get_ticks_usec()
			for number in BATCH:
				pass
		"dictionary":
			started = Time.get_ticks_usec()
			for number in BATCH:
				var _built := {"player": 17, "position": Vector3(1.0, 2.0, 3.0), "action": "jump", "health": 93.5}
		"empty_call":
			started = Time.get_ticks_usec()
			for number in BATCH:
				Sidekick.is_supervised()
		"var_to_bytes":
			started = Time.get_ticks_usec()
			for number in BATCH:
				var_to_bytes(data)
		"record":
			started = Time.get_ticks_usec()
			for number in BATCH:
				Sidekick.record(&"bench", data)
		"json_line":
			started = Time.get_ticks_usec()
			for number in BATCH:
				_file.store_line(JSON.stringify(data))
				_file.flush()
		"udp_send":
			started = Time.get_ticks_usec()
			for number in BATCH:
				_udp.put_packet(var_to_bytes(data))
	return Time.get_ticks_usec() - started


## Microseconds of single calls, in the clock's whole ones; the clock's own call is in each ("nothing" is that alone).
func _single(case: String) -> PackedInt64Array:
	var data := _data
	var times := PackedInt64Array()
	times.resize(SINGLES)
	match case:
		"nothing":
			for number in SINGLES:
				var started := Time.get_ticks_usec()
				times[number] = Time.get_ticks_usec() - started
		"record":
			for number in SINGLES:
				var started := Time.get_ticks_usec()
				Sidekick.record(&"bench", data)
				times[number] = Time.get_ticks_usec() - started
		"json_line":
			for number in SINGLES:
				var started := Time.get_ticks_usec()
				_file.store_line(JSON.stringify(data))
				_file.flush()
				times[number] = Time.get_ticks_usec() - started
		"udp_send":
			for number in SINGLES:
				var started := Time.get_ticks_usec()
				_udp.put_packet(var_to_bytes(data))
				times[number] = Time.get_ticks_usec() - started
	return times
