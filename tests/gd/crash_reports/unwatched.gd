extends Node
## Crashes once the file that its argument names is there; in its second life it tells what it knows of that.

var _frames := 0


func _ready() -> void:
	print("incarnation ", Sidekick.get_incarnation())
	Sidekick.mark_ready()
	Sidekick.quit_requested.connect(_on_quit_requested)


func _on_quit_requested(_grace_seconds: float) -> void:
	get_tree().quit()


func _process(_delta: float) -> void:
	_frames += 1
	if Sidekick.get_incarnation() == 1:
		if FileAccess.file_exists(OS.get_cmdline_user_args()[0]):
			print("nobody watches")
			push_error("about to die unseen")
			OS.crash("unseen")
		return
	var death: Dictionary = Sidekick.get_last_death()
	if not death.is_empty():
		Sidekick.record(&"known", {
			"relaunch": Sidekick.is_relaunch(),
			"report_id": death.report_id,
			"floats": _floats(death, ""),
			"line_is_int": not death.script_errors.is_empty() and death.script_errors[0].line is int,
		})
		set_process(false)


## The names of all floats that could be ints: whole, and not a time.
func _floats(value: Variant, name: String) -> Array:
	var found := []
	if value is Dictionary:
		for key: String in value:
			found.append_array(_floats(value[key], key))
	elif value is Array:
		for item: Variant in value:
			found.append_array(_floats(item, name))
	elif value is float and not (name in ["at_s", "uptime_s", "last_tick_ms", "cpu_percent", "silent_s"]):
		found.append(name)
	return found
