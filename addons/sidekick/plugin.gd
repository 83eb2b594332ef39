@tool
extends EditorPlugin
## Repairs what an installation from the asset library loses. The extension itself needs no plugin.

## The asset installer writes every file without its execute bit.
const EXECUTABLES: PackedStringArray = [
	"res://addons/sidekick/sidekick.sh",
	"res://addons/sidekick/bin/linux.x86_64/sidekick-watchdog",
]
const EXECUTE_BITS: int = (
	FileAccess.UNIX_EXECUTE_OWNER | FileAccess.UNIX_EXECUTE_GROUP | FileAccess.UNIX_EXECUTE_OTHER
)


func _enter_tree() -> void:
	if OS.has_feature("windows"):
		return
	for path: String in EXECUTABLES:
		if FileAccess.file_exists(path):
			_make_executable(path)


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
