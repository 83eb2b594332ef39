extends "res://journal.gd"
## Records and keeps its journal like the game it extends, and comes to one kind of end.
##
## User arguments: [code]--act WHAT[/code] (an empty one only plays), done in every incarnation up to [code]--last N[/code] (default 1)
## in frame [code]--frame N[/code] (default 20). What an act leaves for the test lies in [code]--notes DIR[/code].

## Longer than the limit.
const STALL_MSEC := 8000
## Of one that nobody announces, whose end is not to be seen.
const STALL_MSEC_MAX := 120_000
## Slow enough for who looks at it once a second.
const GROWTH_BYTES := 2 << 20
const GROWTH_FRAMES := 8

var _act := ""
var _frame := 20
var _frames := 0
var _hoard: Array[PackedByteArray] = []


func _ready() -> void:
	super()
	if Sidekick.get_incarnation() <= _argument("--last", "1").to_int():
		_act = _argument("--act", "")
	_frame = _argument("--frame", "20").to_int()
	if _act == "loop_at_start":
		Sidekick.restore("match")
		Sidekick.expect_stall(1.0)
		while true:
			pass
	Sidekick.memory_high.connect(_on_memory_high)


func _process(delta: float) -> void:
	super(delta)
	_frames += 1
	if _act == "grow" and _frames >= _frame:
		if _frames % GROWTH_FRAMES == 0:
			_grow()
	elif _frames == _frame:
		_do()


func _do() -> void:
	match _act:
		"crash":
			OS.crash("on purpose")
		"quit":
			get_tree().quit(_argument("--code", "0").to_int())
		"loop":
			while true:
				pass
		"restart":
			Sidekick.restart_when_idle()
			Sidekick.set_idle(true)
		"announced_stall":
			Sidekick.expect_stall(60.0)
			OS.delay_msec(STALL_MSEC)
			_note("over", "")
		"stall":
			OS.delay_msec(STALL_MSEC_MAX)
			_note("over", "")
		"children":
			var pids := [OS.create_process("sleep", ["600"]), OS.create_process("setsid", ["sleep", "600"])]
			_note("children", " ".join(pids))


func _on_memory_high(bytes: int) -> void:
	_note("memory_high", str(bytes))


## Touched, so that it is resident.
func _grow() -> void:
	var bytes := PackedByteArray()
	bytes.resize(GROWTH_BYTES)
	bytes.fill(1)
	_hoard.append(bytes)


func _note(name: String, text: String) -> void:
	var file := FileAccess.open("%s/%s" % [_argument("--notes", "."), name], FileAccess.WRITE)
	file.store_string(text)
	file.close()


func _on_quit_requested(grace_seconds: float) -> void:
	if _act != "deaf":
		super(grace_seconds)
