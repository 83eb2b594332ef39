extends Node
## A match of a few players that is killed again and again: it binds one UDP port, scores at random, checkpoints ten times a
## second, and keeps its own journal of all of it, one file for each incarnation.
##
## The journal is the kill tests' witness. Each line is handed to the kernel before the match goes on: [code]restored none 0 0,0[/code] and
## [code]serves PID STANDBY VERSION[/code] at the beginning, then [code]tick 7 3,5[/code], [code]begin 12[/code] before a checkpoint's call and [code]done 12[/code]
## after it. Asked to quit, it says [code]quits[/code] and checkpoints once more.
##
## Only this script's manners keep the port to one engine: it listens with SO_REUSEADDR, so the kernel would give it to two. Before
## that it binds the port for a moment for itself alone, which fails while anybody else holds it ([code]taken[/code]).
##
## User arguments: [code]--port N[/code], [code]--journal DIR[/code], [code]--break MODE[/code]: [code]early[/code] takes the port before its
## turn, [code]stale[/code] goes on with the last checkpoint but one.

## Of this program.
const VERSION := 1
const KEY := "match"
## The last checkpoint but one, for the broken game.
const STALE_KEY := "stale"
const PLAYERS := 6
## Physics ticks.
const CHECKPOINT_EVERY := 6
const ANSWER_MAX_S := 60.0

var _journal: FileAccess
var _server := UDPServer.new()
var _broken := ""
var _is_active := false
var _tick := 0
var _scores := PackedInt32Array()
var _saved := {}


func _ready() -> void:
	Engine.max_fps = 60
	_broken = _argument("--break")
	var was_standby := Sidekick.is_standby()
	Sidekick.quit_requested.connect(_on_quit_requested)
	if _broken == "early" and was_standby:
		_journal = _open("early-%d" % OS.get_process_id())
		_bind()
	await Sidekick.when_active()
	_journal = _open("%010d-%d" % [Sidekick.get_incarnation(), OS.get_process_id()])
	var key := STALE_KEY if _broken == "stale" else KEY
	var state: Dictionary = Sidekick.restore(key, {}, ANSWER_MAX_S)
	_tick = state.get("tick", 0)
	_scores = state.get("scores", PackedInt32Array())
	_scores.resize(PLAYERS)
	_saved = state
	_write("restored %s %d %s" % [Sidekick.restore_info(key).status, _tick, _text()])
	if not _server.is_listening():
		_bind()
	_write("serves %d %s %d" % [OS.get_process_id(), was_standby, VERSION])
	_is_active = true
	Sidekick.mark_ready()


func _physics_process(_delta: float) -> void:
	if not _is_active:
		return
	_tick += 1
	for number in 3:
		_scores[randi() % PLAYERS] += randi_range(1, 9)
	_write("tick %d %s" % [_tick, _text()])
	if _tick % CHECKPOINT_EVERY == 0:
		_checkpoint()


func _checkpoint() -> void:
	_write("begin %d" % _tick)
	var state := {"tick": _tick, "scores": _scores.duplicate()}
	if _broken == "stale":
		Sidekick.checkpoint(STALE_KEY, _saved)
		_saved = state
	_write("%s %d" % ["refused" if Sidekick.checkpoint(KEY, state) == 0 else "done", _tick])


func _on_quit_requested(_grace_seconds: float) -> void:
	if _is_active:
		_is_active = false
		_write("quits")
		_checkpoint()
	get_tree().quit()


func _bind() -> void:
	var port := _argument("--port").to_int()
	var alone := PacketPeerUDP.new()
	if alone.bind(port, "127.0.0.1") != OK:
		_write("taken")
	alone.close()
	if _server.listen(port, "127.0.0.1") != OK:
		_write("taken, and not to be had")


func _text() -> String:
	return ",".join(Array(_scores).map(str))


func _open(file_name: String) -> FileAccess:
	return FileAccess.open(_argument("--journal").path_join(file_name), FileAccess.WRITE)


func _write(line: String) -> void:
	_journal.store_line(line)
	_journal.flush()


func _argument(argument: String) -> String:
	var arguments := OS.get_cmdline_user_args()
	var at := arguments.find(argument)
	return arguments[at + 1] if at >= 0 and at + 1 < arguments.size() else ""
