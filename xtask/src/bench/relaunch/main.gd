extends Node
## Appends its process id and the time to the file that the user argument names, in its first frame.

var _ticks := 0


func _ready() -> void:
	Engine.max_fps = 60
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	_ticks += 1
	if _ticks > 1:
		return
	var now := Time.get_unix_time_from_system()
	var path := OS.get_cmdline_user_args()[0]
	var file := FileAccess.open(path, FileAccess.READ_WRITE if FileAccess.file_exists(path) else FileAccess.WRITE)
	file.seek_end()
	file.store_string("%d %.6f\n" % [OS.get_process_id(), now])
	file.close()
