extends Node
## Dies of one thing after the other: the user arguments name what, one for each incarnation; after the last it plays on.

const FRAME := 10
## Sends a signal to this process once its main thread takes signals. glibc blocks them in a thread that starts a process until
## it has started; one that comes meanwhile goes to another thread, whose crash has no script backtrace.
const KILL_MAIN := "until grep -q 'SigBlk:.0000000000000000' /proc/{pid}/task/{pid}/status; do :; done; kill -{signal} {pid}"

var _act := ""
var _frames := 0


func _ready() -> void:
	var acts := OS.get_cmdline_user_args()
	var number := Sidekick.get_incarnation() - 1
	if number < acts.size():
		_act = acts[number]
	print("act: ", _act)
	Sidekick.mark_ready()
	Sidekick.quit_requested.connect(_on_quit_requested)


func _on_quit_requested(_grace_seconds: float) -> void:
	get_tree().quit()


func _process(_delta: float) -> void:
	_frames += 1
	if _frames == FRAME:
		_do()


func _do() -> void:
	match _act:
		"crash":
			OS.crash("on purpose")
		"quit":
			get_tree().quit(3)
		"loop":
			while true:
				pass
		"banner":
			_print_banner()
			get_tree().quit(4)
		"errors":
			_fail()
			push_error("about to die")
			_kill("SEGV")
		"":
			pass
		_:
			_kill(_act)


func _kill(signal_name: String) -> void:
	OS.execute("/bin/sh", ["-c", KILL_MAIN.format({"pid": OS.get_process_id(), "signal": signal_name})])
	OS.delay_msec(10_000)


func _fail() -> void:
	var nothing: Variant = null
	nothing.call("x")


func _print_banner() -> void:
	print("================================================================")
	print("handle_crash: Program crashed with signal 11")
	print("[1] imitated (??:0)")
	print("-- END OF C++ BACKTRACE --")
