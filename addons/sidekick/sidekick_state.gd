@tool
@icon("res://addons/sidekick/icon.svg")
class_name SidekickState
extends Node
## Keeps properties of other nodes over the death of the server.
##
## Pick the properties that make up the match, as for a [MultiplayerSynchronizer]: while the server runs they are checkpointed
## whenever they have changed, and after a relaunch they are set to what they were. Nothing has to be written for it.
## [br][br]
## They are restored when this node's [member Node.owner] (the scene that it was saved in) is ready: after every [method Node._ready]
## of that scene, so that defaults set there do not win, and before the first physics frame. A server opens its port after that:
## [codeblock]
## func _ready() -> void:
##     await $SidekickState.restored
##     _open_port()
##     Sidekick.mark_ready()
## [/codeblock]
## What was spawned is spawned again: the children of each of [member spawn_roots] that are scenes, by name and scene, with their
## [member spawned_properties]. Children that the checkpoint does not know are removed.
## [br][br]
## Without a watchdog, and in the editor, nothing is read or written; [signal restored] comes all the same, except in the editor.
## Values are everything but objects, callables, signals and RIDs. Peer ids change with a relaunch: key players by a token of
## their session ([code]client/sidekick_reconnect.gd[/code] does).

## Once the scene is as it was, or it is known that there is nothing to restore. Emitted in every run, when
## [member Node.owner] is ready. [param info] holds [code]status[/code] ([code]"restored"[/code], [code]"none"[/code], [code]"fresh"[/code]: this
## is no relaunch, or the state was restored before in this process; [code]"timeout"[/code]: the watchdog did not answer, [code]"unsupervised"[/code]); if restored also
## [code]age_s[/code], [code]incarnation[/code] and [code]frame[/code] of the checkpoint, [code]properties[/code] and [code]spawned[/code] (how many),
## and [code]skipped[/code] (sentences: what did not fit). After a time-out it is emitted again when the watchdog has answered.
signal restored(info: Dictionary)

const Kept := preload("res://addons/sidekick/state/kept.gd")
const Spawned := preload("res://addons/sidekick/state/spawned.gd")

## Bytes of a checkpoint's key; the watchdog refuses longer ones.
const KEY_BYTES_MAX: int = 128
## Deltas that the watchdog keeps for one complete checkpoint.
const DELTAS_MAX: int = 64
## After a time-out: how often to ask again, and how long the game may stand still for it.
const RETRY_EVERY_S: float = 1.0
const RETRY_TIMEOUT_S: float = 0.05

## The node that all paths begin at, relative to this one.
@export var root_path: NodePath = ^".."
## What to keep: paths from the root with a property, as [code]Arena:scores[/code] or [code]Clock:time:x[/code]. The button above picks them.
@export var properties: Array[NodePath] = []:
	set(value):
		properties = value
		update_configuration_warnings()
## Nodes, as paths from the root, whose children are spawned while the game runs. Give such children a name of their own
## ([code]add_child(player, true)[/code]); they need a scene file.
@export var spawn_roots: Array[NodePath] = []:
	set(value):
		spawn_roots = value
		update_configuration_warnings()
## What to keep of each spawned child, where it has it: paths from the child, as [code]:position[/code] or [code]Health:points[/code].
@export var spawned_properties: Array[NodePath] = []:
	set(value):
		spawned_properties = value
		update_configuration_warnings()
## Time between two checkpoints, which is what a crash takes back at most. 0: each physics frame. Written is only what has changed.
@export_range(0.0, 10.0, 0.05, "or_greater", "suffix:s") var interval_s: float = 0.25
## Every so many checkpoints one is complete; those between hold what has changed since the one before.
@export_range(1, 64) var full_every: int = 20
## The checkpoint's name, of at most 128 bytes. Empty: this node's path.
@export var key: String = ""
## Restores also at a start that is no relaunch, such as the first after [code]sidekick-watchdog stop[/code].
@export var restore_always: bool = false
## How long the start waits for the watchdog, at most.
@export_range(0.0, 60.0, 0.1, "or_greater", "suffix:s") var restore_timeout_s: float = 5.0

## Keys in use, and keys that were restored in this process: a match that is begun anew in the same process begins at its beginning.
static var _in_use: Dictionary[String, int] = {}
static var _was_restored: Dictionary[String, bool] = {}

## The extension's singleton; null where there is no library.
var _sidekick: Object = null
var _is_started: bool = false
var _key: String = ""
var _kept: Kept = Kept.new()
## What the last checkpoints told together, in copies of our own.
var _told: Dictionary[String, Variant] = {}
var _needs_full: bool = true
var _deltas: int = 0
var _waited_s: float = 0.0
## The restore timed out: what is known must not be overwritten before the watchdog has answered.
var _is_waiting: bool = false
## Entries that could not be stored; they are looked at closely from then on.
var _suspects: Dictionary[String, bool] = {}
var _warned: Dictionary[String, bool] = {}


func _enter_tree() -> void:
	set_physics_process(false)
	if Engine.is_editor_hint():
		return
	if process_mode == PROCESS_MODE_INHERIT:
		# What changed just before a pause is to be kept, too.
		process_mode = PROCESS_MODE_ALWAYS
	# After everything else that moves in this frame.
	process_physics_priority = 1 << 20
	if _is_started:
		# Taken out of the tree, and put in again.
		_resume()
	elif not _anchor().ready.is_connected(_start):
		_anchor().ready.connect(_start, CONNECT_ONE_SHOT)


func _ready() -> void:
	# Added to a scene that stands already, or by a script in the scene's _ready, which also counts as ready: the signal is first there.
	if not Engine.is_editor_hint() and _anchor().is_node_ready():
		_start.call_deferred()


func _exit_tree() -> void:
	set_physics_process(false)
	if _in_use.get(_key, 0) == get_instance_id():
		_in_use.erase(_key)


func _notification(what: int) -> void:
	# Asked to quit: what a planned restart finds.
	if what == NOTIFICATION_WM_CLOSE_REQUEST and is_physics_processing() and not _is_waiting:
		checkpoint_now()


func _physics_process(delta: float) -> void:
	_waited_s += delta
	if _is_waiting:
		if _waited_s >= RETRY_EVERY_S:
			_waited_s = 0.0
			_restore(RETRY_TIMEOUT_S)
	elif _waited_s >= interval_s:
		_waited_s = 0.0
		checkpoint_now()


func _get_configuration_warnings() -> PackedStringArray:
	var warnings: PackedStringArray = []
	if properties.is_empty() and spawn_roots.is_empty():
		warnings.append("Nothing is kept: pick properties, or nodes whose children are spawned.")
	var root: Node = get_node_or_null(root_path)
	if root == null:
		warnings.append("There is no node %s for the paths to begin at." % root_path)
		return warnings
	for path: NodePath in properties:
		_kept.read(root, path)
		if not _kept.problem.is_empty():
			warnings.append("%s cannot be kept: %s." % [path, _kept.problem])
	for path: NodePath in spawn_roots:
		if Kept.node_of(root, path) == null:
			warnings.append("The children of %s cannot be kept: there is no such node." % path)
	for path: NodePath in spawned_properties:
		if path.get_subname_count() == 0:
			warnings.append("%s of spawned children cannot be kept: it names no property (as in \":position\")." % path)
	if _effective_key().to_utf8_buffer().size() > KEY_BYTES_MAX:
		warnings.append("The key has more than %d bytes." % KEY_BYTES_MAX)
	return warnings


## Checkpoints what has changed, at once; true if everything is kept now. Meant for moments that must not be lost, such as the end of a
## round: the rest is done by itself.
func checkpoint_now() -> bool:
	if _sidekick == null or _is_waiting or not is_physics_processing():
		return false
	var state: Dictionary = _look()
	var changes: Dictionary = _changes(state)
	if changes.is_empty() and not _needs_full:
		return true
	var is_full: bool = _needs_full or _deltas + 1 >= mini(full_every, DELTAS_MAX)
	if not is_full and int(_sidekick.call(&"checkpoint_delta", _key, changes)) > 0:
		_deltas += 1
		for entry: String in changes:
			_tell(entry, changes[entry])
		return true
	# A delta that was refused (too much of them since the last complete one) goes in a complete one.
	_needs_full = int(_sidekick.call(&"checkpoint", _key, state)) == 0
	if _needs_full:
		# Without what cannot be stored, the rest can.
		return _find_suspects(state) and checkpoint_now()
	_deltas = 0
	_told.clear()
	for entry: String in state:
		_tell(entry, state[entry])
	return true


## The node whose [signal Node.ready] says that the scene stands.
func _anchor() -> Node:
	if owner != null:
		return owner
	# Made by a script.
	return get_parent() if get_parent() != get_tree().root else self as Node


## When the scene is ready.
func _start() -> void:
	if _is_started or not is_inside_tree():
		return
	_is_started = true
	_sidekick = Engine.get_singleton(&"Sidekick") if Engine.has_singleton(&"Sidekick") else null
	# A library that is older than this script keeps no state.
	if _sidekick == null or not _sidekick.has_method(&"checkpoint_delta") or not _sidekick.call(&"is_supervised"):
		_sidekick = null
		restored.emit({"status": "unsupervised"})
		return
	_key = _effective_key()
	var other: Object = instance_from_id(_in_use[_key]) if _in_use.has(_key) else null
	if other != null or _key.to_utf8_buffer().size() > KEY_BYTES_MAX:
		push_warning("Sidekick: %s keeps nothing: its key \"%s\" %s; give it another one." % [
			get_path(), _key,
			"is in use by %s" % (other as Node).get_path() if other != null else "has more than %d bytes" % KEY_BYTES_MAX,
		])
		_sidekick = null
		restored.emit({"status": "unsupervised"})
		return
	_in_use[_key] = get_instance_id()
	if _sidekick.has_method(&"is_standby") and _sidekick.call(&"is_standby"):
		# The match goes on elsewhere; when it is our turn there is more to restore.
		_sidekick.connect(&"activated", _begin, CONNECT_ONE_SHOT)
	else:
		_begin()


func _begin() -> void:
	set_physics_process(true)
	if _was_restored.has(_key):
		restored.emit({"status": "fresh"})
	else:
		_restore(restore_timeout_s)


func _resume() -> void:
	if _sidekick != null and not _in_use.has(_key):
		_in_use[_key] = get_instance_id()
		set_physics_process(true)


func _restore(timeout_s: float) -> void:
	# Asked for in any case: the checkpoints from now on are numbered after the last one.
	var state: Variant = _sidekick.call(&"restore", _key, null, timeout_s)
	var info: Dictionary = _sidekick.call(&"restore_info", _key)
	if not info.has("status"):
		info["status"] = "none"
	var was_waiting: bool = _is_waiting
	_is_waiting = info["status"] == "timeout"
	if _is_waiting:
		if not was_waiting:
			push_warning(
				(
					"Sidekick: the watchdog did not give %s its state (\"%s\") within %.1f s. The game begins with its defaults, nothing is"
					+ " checkpointed meanwhile, and what there is will be restored when it comes."
				)
				% [get_path(), _key, timeout_s]
			)
			restored.emit(info)
		return
	if info["status"] == "restored":
		if restore_always or _sidekick.call(&"is_relaunch"):
			info.merge(_apply(state), true)
		else:
			info = {"status": "fresh"}
	_was_restored[_key] = true
	restored.emit(info)


## Sets the scene to what was saved, as far as it fits; what was done, for [signal restored].
func _apply(saved: Variant) -> Dictionary:
	var skipped: PackedStringArray = []
	var result: Dictionary = {"properties": 0, "spawned": 0, "skipped": skipped}
	var root: Node = get_node_or_null(root_path)
	if typeof(saved) != TYPE_DICTIONARY:
		skipped.append("everything: it is a %s, not what a SidekickState has written" % type_string(typeof(saved)))
	elif root == null:
		skipped.append("everything: there is no node %s" % root_path)
	else:
		var state: Dictionary = saved
		result["spawned"] = Spawned.restore(root, spawn_roots, state, skipped)
		for entry: Variant in state:
			if typeof(entry) != TYPE_STRING and typeof(entry) != TYPE_STRING_NAME:
				skipped.append("%s: it is not what a SidekickState has written" % var_to_str(entry))
			elif ":" in entry and _is_to_set(entry, state, skipped):
				var problem: String = Kept.write(root, NodePath(String(entry)), state[entry])
				if problem.is_empty():
					result["properties"] += 1
				else:
					skipped.append("%s: %s" % [entry, problem])
		for path: NodePath in properties:
			_kept.read(root, path)
			# Of what cannot be kept at all there is another warning.
			if not state.has(String(path)) and _kept.problem.is_empty():
				skipped.append("%s: it was not kept" % path)
	result["skipped"] = skipped
	if not skipped.is_empty():
		push_warning("Sidekick: the checkpoint \"%s\" does not fit %s everywhere. Left as they are: %s." % [
			_key, get_path(), "; ".join(skipped),
		])
	return result


## Whether a saved property belongs to what is kept today; tells of those that do not.
func _is_to_set(entry: String, state: Dictionary, skipped: PackedStringArray) -> bool:
	if NodePath(entry) in properties:
		return true
	var at: String = Spawned.child_of(entry, spawn_roots)
	if at.is_empty():
		skipped.append("%s: it is not kept any more" % entry)
		return false
	# Of a child that is gone the last values may be left over.
	return typeof(state.get(at)) == TYPE_STRING and NodePath(entry.trim_prefix(at).trim_prefix("/")) in spawned_properties


## Every value as it is now, by its path. The game's own arrays and dictionaries, not copies.
func _look() -> Dictionary:
	var state: Dictionary = {}
	var root: Node = get_node_or_null(root_path)
	if root == null:
		_warn_once(String(root_path), "nothing is kept: there is no node %s" % root_path)
		return state
	for path: NodePath in properties:
		_kept.read(root, path)
		_take(state, String(path))
	for path: NodePath in spawn_roots:
		var spawn_root: Node = Kept.node_of(root, path)
		if spawn_root == null:
			_warn_once(String(path), "the children of %s are not kept: there is no such node" % path)
			continue
		for child: Node in Spawned.children(spawn_root):
			var at: String = Spawned.at(path, child)
			state[at] = child.scene_file_path
			for property: NodePath in spawned_properties:
				_kept.read(child, property)
				# Children differ: what one lacks another has.
				if _kept.problem.is_empty() or Kept.node_of(child, property) != null and property.get_subname(0) in child:
					_take(state, Spawned.entry(at, property))
	return state


## Puts what was just read into [param state], unless it cannot be stored.
func _take(state: Dictionary, entry: String) -> void:
	var problem: String = _kept.problem
	if problem.is_empty() and _suspects.has(entry):
		problem = Kept.why_unstorable(_kept.value)
	if problem.is_empty():
		state[entry] = _kept.value
	else:
		_warn_once(entry, "%s is not kept: %s" % [entry, problem])


## What differs from what was told; null for a spawned child that is gone.
func _changes(state: Dictionary) -> Dictionary:
	var changes: Dictionary = {}
	for entry: String in state:
		if not _told.has(entry) or not Kept.same(_told[entry], state[entry]):
			changes[entry] = state[entry]
	for entry: String in _told.keys():
		if state.has(entry):
			continue
		if ":" in entry:
			_told.erase(entry)
		elif _told[entry] != null:
			changes[entry] = null
	return changes


func _tell(entry: String, value: Variant) -> void:
	_told[entry] = Kept.copy(value)


## A complete checkpoint was refused: whether that is because of values that cannot be stored, which are left out from now on.
func _find_suspects(state: Dictionary) -> bool:
	var found: bool = false
	for entry: String in state:
		if not _suspects.has(entry) and not Kept.why_unstorable(state[entry]).is_empty():
			_suspects[entry] = true
			found = true
	if not found:
		_warn_once("", "the watchdog's side took no checkpoint \"%s\"; trying again every %.2f s" % [_key, interval_s])
	return found


func _effective_key() -> String:
	if not key.is_empty():
		return key
	var path: String = String(get_path()).trim_prefix("/root/") if is_inside_tree() else String(name)
	return path if path.to_utf8_buffer().size() <= KEY_BYTES_MAX else path.sha256_text()


func _warn_once(about: String, sentence: String) -> void:
	if not _warned.has(about):
		_warned[about] = true
		push_warning("Sidekick: %s: %s. The game goes on; this is said once." % [get_path(), sentence])
