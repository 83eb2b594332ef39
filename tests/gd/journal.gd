extends Node
## Records without pause, from the main thread and two others, and keeps its own journal of what was recorded.
##
## The journal is the kill tests' witness: a line is written, and handed to the kernel, only after [code]record()[/code]
## has returned. It knows nothing of ring, watchdog or store. One file for each incarnation and thread:
## [code]DIR/<incarnation>-<thread>.journal[/code], a line each: epoch, sequence number, stream, nonce, and the text's letter and length.
##
## User arguments: [code]--journal DIR[/code], [code]--per-frame N[/code] (default 20), [code]--threads N[/code] (default 2).

const STREAMS: Array[StringName] = [&"damage", &"chat.all", &"position", &"economy"]

var _directory := ""
var _per_frame := 20
var _journal: FileAccess
var _epoch := ""
var _rng := RandomNumberGenerator.new()
var _threads: Array[Thread] = []
var _stopping := false


func _ready() -> void:
	Engine.max_fps = 120
	_directory = _argument("--journal", "")
	_per_frame = _argument("--per-frame", "20").to_int()
	_epoch = Sidekick.get_stats()["epoch"]
	_rng.randomize()
	_journal = _open("main")
	Sidekick.quit_requested.connect(_on_quit_requested)
	for number in _argument("--threads", "2").to_int():
		var thread := Thread.new()
		thread.start(_record_in_thread.bind(number, randi()))
		_threads.append(thread)
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	for number in _per_frame:
		_record(_rng, _journal)


func _record_in_thread(number: int, random_seed: int) -> void:
	var rng := RandomNumberGenerator.new()
	rng.seed = random_seed
	var journal := _open("thread%d" % number)
	while not _stopping:
		for burst in 5:
			_record(rng, journal)
		OS.delay_msec(2)


func _record(rng: RandomNumberGenerator, journal: FileAccess) -> void:
	var stream := STREAMS[rng.randi() % STREAMS.size()]
	# Mostly small, now and then one of some kilobytes, so that frames wrap the ring's end in every way.
	var length := rng.randi_range(0, 60) if rng.randi() % 50 != 0 else rng.randi_range(1000, 9000)
	var letter := char(rng.randi_range(97, 122))
	var nonce := rng.randi()
	var sequence := Sidekick.record(stream, {"nonce": nonce, "text": letter.repeat(length), "at": Vector2(nonce % 100, 1.5)})
	if sequence == 0:
		return
	journal.store_line("%s %d %s %d %s %d" % [_epoch, sequence, stream, nonce, letter, length])
	journal.flush()


func _open(thread: String) -> FileAccess:
	var path := "%s/%d-%s.journal" % [_directory, Sidekick.get_incarnation(), thread]
	var file := FileAccess.open(path, FileAccess.WRITE)
	if file == null:
		push_error("journal %s: %s" % [path, error_string(FileAccess.get_open_error())])
		get_tree().quit(9)
	return file


func _argument(name: String, default: String) -> String:
	var arguments := OS.get_cmdline_user_args()
	var at := arguments.find(name)
	return arguments[at + 1] if at >= 0 and at + 1 < arguments.size() else default


func _on_quit_requested(_grace_seconds: float) -> void:
	_stopping = true
	for thread in _threads:
		thread.wait_to_finish()
	await Sidekick.flush()
	get_tree().quit()
