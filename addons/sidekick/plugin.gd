@tool
extends EditorPlugin
## Repairs what an installation from the asset library loses, and helps to fill in a [SidekickState]. The extension itself needs no
## plugin.

const StateInspector := preload("res://addons/sidekick/editor/state_inspector.gd")

## The asset installer writes every file without its execute bit.
const EXECUTABLES: PackedStringArray = [
	"res://addons/sidekick/sidekick.sh",
	"res://addons/sidekick/bin/linux.x86_64/sidekick-watchdog",
]
const EXECUTE_BITS: int = (
	FileAccess.UNIX_EXECUTE_OWNER | FileAccess.UNIX_EXECUTE_GROUP | FileAccess.UNIX_EXECUTE_OTHER
)


var _state_inspector: StateInspector = null


func _enter_tree() -> void:
	_state_inspector = StateInspector.new()
	add_inspector_plugin(_state_inspector)
	if OS.has_feature("windows"):
		return
	for path: String in EXECUTABLES:
		if FileAccess.file_exists(path):
			_make_executable(path)


func _exit_tree() -> void:
	remove_inspector_plugin(_state_inspector)
	_state_inspector = null


func _make_executable(path: String) -> void:
	var permissions: int = FileAccess.get_unix_permissions(path)
	if permissions & FileAccess.UNIX_EXECUTE_OWNER:
		return
	var error: Error = FileAccess.set_unix_permissions(path, permissions | EXECUTE_BITS)
	if error != OK:
		push_warning(
			"Sidekick: %s cannot be made executable (%s); run: chmod +x %s"
			% [path, error_string(error), ProjectSettings.globalize_path(path)]
		)
