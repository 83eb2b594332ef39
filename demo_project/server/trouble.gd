extends Node
## Makes the server crash, hang, leak or quit on command, so that you can see what the watchdog does.
##
## Three ways to ask: a key (in a window), a user argument ([code]--crash-after 5[/code], in seconds; an underscore of the
## command is a hyphen there: [code]--ignore-quit-after 0[/code]), or a file ([code]--command-file PATH[/code]) that holds
## one command; the file is removed before it is obeyed.
## [codeblock lang=text]
## command      key  what happens
## crash        C    OS.crash(): Godot's crash handler prints backtraces, then it aborts
## segv         S    a segmentation fault, as a bug in a native module makes one
## abort        A    SIGABRT, without Godot's handler: death without a word
## kill         9    SIGKILL, as the kernel sends it when memory is short
## hang         H    an endless loop in _process
## sleep        Z    stands still for --sleep-s (8) seconds, announced with expect_stall(): not a hang
## leak         L    takes --leak-mib (8) MiB more each frame, up to --leak-max-mib (2048)
## fork         K    starts a child process that would outlive it
## ignore_quit  I    from now on does not quit when asked to
## flood        F    records 2,000 events of 1 KiB in each of the next 300 frames
## error        E    script errors: push_error() and a call on null
## restart      R    says that it is idle and wants to be restarted
## quit         Q    quits cleanly; with --quit-code as its exit code (0)
## [/codeblock]

const KEYS: Dictionary[Key, String] = {
	KEY_C: "crash",
	KEY_S: "segv",
	KEY_A: "abort",
	KEY_9: "kill",
	KEY_H: "hang",
	KEY_Z: "sleep",
	KEY_L: "leak",
	KEY_K: "fork",
	KEY_I: "ignore_quit",
	KEY_F: "flood",
	KEY_E: "error",
	KEY_R: "restart",
	KEY_Q: "quit",
}
const FLOOD_RECORDS := 2000
const FLOOD_FRAMES := 300

## [code]main.gd[/code] looks here when it is asked to quit.
static var ignores_quit := false

var _command_file := ""
var _deadlines: Dictionary[String, float] = {}
var _uptime_s := 0.0
var _is_leaking := false
var _leaked: Array[PackedByteArray] = []
var _flood_frames := 0
var _flood_data := PackedByteArray()


## The value after [param name] among the user arguments, or an empty string.
static func user_argument(name: String) -> String:
	var arguments := OS.get_cmdline_user_args()
	var at := arguments.find(name)
	return arguments[at + 1] if at >= 0 and at + 1 < arguments.size() else ""


func _ready() -> void:
	_command_file = user_argument("--command-file")
	for command: String in KEYS.values():
		var after := user_argument("--%s-after" % command.replace("_", "-"))
		if after.is_valid_float():
			_deadlines[command] = after.to_float()


func _process(delta: float) -> void:
	if Sidekick.is_standby():
		# It is the other server's trouble.
		return
	_uptime_s += delta
	for command: String in _deadlines.keys():
		if _uptime_s >= _deadlines[command]:
			_deadlines.erase(command)
			_obey(command)
	if not _command_file.is_empty() and FileAccess.file_exists(_command_file):
		var command := FileAccess.get_file_as_string(_command_file).strip_edges()
		# An unfinished or unknown word is left alone: its writer may not be done.
		if command in KEYS.values():
			DirAccess.remove_absolute(_command_file)
			_obey(command)
	if _is_leaking:
		_leak()
	if _flood_frames > 0:
		_flood_frames -= 1
		for number in FLOOD_RECORDS:
			Sidekick.record(&"flood", _flood_data)


func _unhandled_key_input(event: InputEvent) -> void:
	var key := event as InputEventKey
	if key != null and key.pressed and not key.echo and KEYS.has(key.keycode):
		_obey(KEYS[key.keycode])


func _obey(command: String) -> void:
	print("arena: told to %s" % command)
	match command:
		"crash":
			OS.crash("asked for by the operator")
		"segv":
			_send_signal("SEGV")
		"abort":
			_send_signal("ABRT")
		"kill":
			_send_signal("KILL")
		"hang":
			while true:
				pass
		"sleep":
			var seconds := _number("--sleep-s", 8.0)
			Sidekick.expect_stall(seconds + 5.0)
			OS.delay_msec(roundi(seconds * 1000.0))
			print("arena: awake again")
		"leak":
			_is_leaking = true
		"fork":
			print("arena: child %d" % OS.create_process("sleep", ["86400"]))
		"ignore_quit":
			ignores_quit = true
			get_tree().auto_accept_quit = false
		"flood":
			_flood_data.resize(1024)
			_flood_frames = FLOOD_FRAMES
		"error":
			push_error("asked for by the operator")
			var nothing: Object = null
			nothing.call("anything")
		"restart":
			Sidekick.set_idle(true)
			Sidekick.restart_when_idle()
		"quit":
			get_tree().quit(roundi(_number("--quit-code", 0.0)))


## A signal from outside, which is how a bug in native code or the kernel ends a process.
func _send_signal(signal_name: String) -> void:
	OS.execute("kill", ["-" + signal_name, str(OS.get_process_id())])


func _leak() -> void:
	var mib := _number("--leak-mib", 8.0)
	if _leaked.size() * mib >= _number("--leak-max-mib", 2048.0):
		_is_leaking = false
		return
	var block := PackedByteArray()
	block.resize(roundi(mib * 1024.0 * 1024.0))
	# Memory that was never written to is none.
	block.fill(1)
	_leaked.append(block)


func _number(argument: String, default: float) -> float:
	var text := user_argument(argument)
	return text.to_float() if text.is_valid_float() else default
