extends Node
## Lives for its state: restores, checkpoints without pause, and keeps its own journal of what it was told and when.
##
## The journal is the kill tests' witness, one file over all incarnations. A line is handed to the kernel before a checkpoint's
## call ([code]begin 7[/code]) and after it ([code]done 7[/code]); what a new incarnation is given is [code]found 7[/code] (in
## the tree) and [code]restored 7 good[/code]. It knows nothing of ring, watchdog or store.
##
## User argument: [code]--journal FILE[/code].

const KEY := "match"
const NODE := "/saver/version"
const READ_EVERY := 7
const FULL_EVERY := 5
const ANSWER_MAX_S := 60.0

var _journal: FileAccess
var _version := 0
var _is_first := true
var _watched := -1
var _unanswered: Dictionary[int, int] = {}


func _ready() -> void:
	Engine.max_fps = 120
	var arguments := OS.get_cmdline_user_args()
	var path := arguments[arguments.find("--journal") + 1]
	var mode := FileAccess.READ_WRITE if FileAccess.file_exists(path) else FileAccess.WRITE
	_journal = FileAccess.open(path, mode)
	_journal.seek_end()
	# An earlier incarnation was killed amid a line.
	_write("")
	Sidekick.quit_requested.connect(func(_grace_seconds: float) -> void: get_tree().quit())
	var state: Dictionary = Sidekick.restore(KEY, {}, ANSWER_MAX_S)
	var found: int = Sidekick.store.get_value(NODE, 0, ANSWER_MAX_S)
	if Sidekick.restore_info(KEY).status == "timeout":
		_write("timeout")
		get_tree().quit(9)
		return
	_write("found %d" % found)
	var version: int = state.get("version", 0)
	var is_good: bool = version == 0 or (state["text"] == _text(version) and state["at"] == Vector2(version, 1.5))
	_write("restored %d %s" % [version, "good" if is_good else "bad"])
	_version = maxi(version, found)
	Sidekick.store.watch(NODE).changed.connect(_on_changed)
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	var next := _version + 1
	_write("begin %d" % next)
	_put(next)
	var changes := {"version": next, "text": _text(next), "at": Vector2(next, 1.5)}
	var is_full := _is_first or next % FULL_EVERY == 0
	var sequence := Sidekick.checkpoint(KEY, changes) if is_full else Sidekick.checkpoint_delta(KEY, changes)
	if sequence == 0:
		_write("refused %d" % next)
		get_tree().quit(9)
		return
	_write("done %d" % next)
	_is_first = false
	_version = next
	if next % READ_EVERY == 0:
		var read: int = Sidekick.store.get_value(NODE, -1, ANSWER_MAX_S)
		if read != next:
			_write("misread %d instead of %d" % [read, next])
	for number: int in _unanswered:
		if Time.get_ticks_msec() - _unanswered[number] > ANSWER_MAX_S * 1000:
			_write("unanswered %d" % number)
			_unanswered.clear()
			break


func _put(version: int) -> void:
	_unanswered[version] = Time.get_ticks_msec()
	var request := Sidekick.store.put(NODE, version)
	request.completed.connect(_on_completed.bind(version))


func _on_completed(result: Dictionary, version: int) -> void:
	_unanswered.erase(version)
	if not result.ok and result.error != "shutting_down":
		_write("error %s for %d" % [result.error, version])


func _on_changed(event: Dictionary) -> void:
	if event.kind != "put":
		_write("missed, there came %s" % event.kind)
		return
	if _watched >= 0 and event.value != _watched + 1:
		_write("missed %d came after %d" % [event.value, _watched])
	_watched = event.value


## What the checkpoint with this version holds: small, and now and then many frames of the ring.
func _text(version: int) -> String:
	return str(version).repeat([1, 20, 3_000, 20_000][version % 4])


func _write(line: String) -> void:
	_journal.store_line(line)
	_journal.flush()
