extends Node
## Measures what a match's state costs the game thread: a checkpoint beside [code]var_to_bytes[/code] of the same state, and a read
## from the store that is waited for.
##
## User argument: the file for the results, single calls in microseconds. One of each is made every third frame, in changing order: as
## often as a busy game would, and not so often that the ring runs full.

const SAMPLES := 200
## Not measured: caches and branch predictors are cold.
const WARM_UP := 10
const EVERY_FRAMES := 3
const STATE_BYTES := 65536
const NODE := "/bench/value"
const IN_A_ROW := 10
## So many take the engine about as long as a read takes in a row.
const TEXT_NUMBERS := 240

var _states := {}
var _times := {
	"get_value": [], "get_value_in_a_row": [], "get_value_after_write": [], "engine_call": [], "engine_call_in_a_row": [],
	"problems": []}
var _text := ""
var _frames := 0
var _round := 0


func _ready() -> void:
	Engine.max_fps = 60
	_states = {"dictionary": _make_match(), "bytes": PackedByteArray()}
	_states["bytes"].resize(STATE_BYTES - var_to_bytes(PackedByteArray()).size())
	for kind: String in _states:
		_times["checkpoint_" + kind] = []
		_times["var_to_bytes_" + kind] = []
		_times["size_" + kind] = var_to_bytes(_states[kind]).size()
	_text = JSON.stringify(range(TEXT_NUMBERS))
	Sidekick.store.put(NODE, {"player": 17, "score": 93.5})
	Sidekick.mark_ready()


## As a server would keep it: many players, each a small dictionary.
func _make_match() -> Dictionary:
	var state := {}
	while var_to_bytes(state).size() < STATE_BYTES - 300:
		state["player %d" % state.size()] = {
			"position": Vector3(1.0, 2.0, 3.0), "health": 93.5, "score": 17, "name": "somebody", "items": [1, 2, 3]}
	return state


func _process(_delta: float) -> void:
	_frames += 1
	# What was written before has to be on disk first: two frames later it is.
	if _frames % EVERY_FRAMES == EVERY_FRAMES - 1 and _round <= SAMPLES + WARM_UP:
		_read("get_value")
		# As a server that loads: one after the other.
		for i in IN_A_ROW:
			_read("get_value_in_a_row")
	elif _frames % EVERY_FRAMES == 1:
		_call_engine("engine_call")
		for i in IN_A_ROW:
			_call_engine("engine_call_in_a_row")
	if _round > SAMPLES + WARM_UP or _frames % EVERY_FRAMES != 0:
		return
	_round += 1
	if _round > SAMPLES + WARM_UP:
		_write()
		return
	for kind: String in _states:
		var state: Variant = _states[kind]
		if _round % 2 == 0:
			_encode(kind, state)
		_keep(kind, state)
		if _round % 2 == 1:
			_encode(kind, state)
	_read("get_value_after_write")


func _read(what: String) -> void:
	var started := Time.get_ticks_usec()
	var value: Variant = Sidekick.store.get_value(NODE)
	_note(what, started)
	if value != {"player": 17, "score": 93.5}:
		_times["problems"].append("read %s" % [value])


## Nothing but the engine's own code, in this one process: how much dearer the machine makes a call that comes out of the blue.
func _call_engine(what: String) -> void:
	var started := Time.get_ticks_usec()
	var value: Variant = JSON.parse_string(_text)
	_note(what, started)
	if value == null or value.size() != TEXT_NUMBERS:
		_times["problems"].append("parsed %s" % [value])


func _keep(kind: String, state: Variant) -> void:
	var started := Time.get_ticks_usec()
	var sequence := Sidekick.checkpoint(kind, state)
	_note("checkpoint_" + kind, started)
	if sequence == 0:
		_times["problems"].append("a checkpoint of %s was refused" % kind)


func _encode(kind: String, state: Variant) -> void:
	var started := Time.get_ticks_usec()
	var bytes := var_to_bytes(state)
	_note("var_to_bytes_" + kind, started)
	if bytes.is_empty():
		_times["problems"].append("no bytes")


func _note(what: String, started: int) -> void:
	var took := Time.get_ticks_usec() - started
	if _round > WARM_UP:
		_times[what].append(took)


func _write() -> void:
	var path := OS.get_cmdline_user_args()[0]
	var file := FileAccess.open(path + ".tmp", FileAccess.WRITE)
	file.store_string(JSON.stringify(_times))
	file.close()
	DirAccess.rename_absolute(path + ".tmp", path)
