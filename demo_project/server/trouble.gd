extends Node
## Makes the server crash, hang or quit on command, so that you can see what the watchdog does.
##
## Three ways to ask: a key (C, H, Q in a window), a user argument ([code]--crash-after 5[/code],
## [code]--hang-after 5[/code], [code]--quit-after 5[/code], in seconds), or a file ([code]--command-file PATH[/code])
## that holds [code]crash[/code], [code]hang[/code] or [code]quit[/code]; the file is removed before it is obeyed.

const COMMANDS: PackedStringArray = ["crash", "hang", "quit"]

var _command_file := ""
var _deadlines: Dictionary[String, float] = {}
var _uptime_s := 0.0


## The value after [param name] among the user arguments, or an empty string.
static func user_argument(name: String) -> String:
	var arguments := OS.get_cmdline_user_args()
	var at := arguments.find(name)
	return arguments[at + 1] if at >= 0 and at + 1 < arguments.size() else ""


func _ready() -> void:
	_command_file = user_argument("--command-file")
	for command in COMMANDS:
		var after := user_argument("--%s-after" % command)
		if after.is_valid_float():
			_deadlines[command] = after.to_float()


func _process(delta: float) -> void:
	_uptime_s += delta
	for command: String in _deadlines:
		if _uptime_s >= _deadlines[command]:
			_obey(command)
			return
	if not _command_file.is_empty() and FileAccess.file_exists(_command_file):
		var command := FileAccess.get_file_as_string(_command_file).strip_edges()
		# An unfinished or unknown word is left alone: its writer may not be done.
		if command in COMMANDS:
			DirAccess.remove_absolute(_command_file)
			_obey(command)


func _unhandled_key_input(event: InputEvent) -> void:
	var key := event as InputEventKey
	if key == null or not key.pressed or key.echo:
		return
	match key.keycode:
		KEY_C: _obey("crash")
		KEY_H: _obey("hang")
		KEY_Q: _obey("quit")


func _obey(command: String) -> void:
	print("arena: told to %s" % command)
	match command:
		"crash": OS.crash("asked for by the operator")
		"hang":
			while true:
				pass
		"quit": get_tree().quit()
