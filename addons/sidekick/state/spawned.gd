extends RefCounted
## The children that a game spawns while it runs: how they are told in a checkpoint, and how they come back. Part of [SidekickState].
##
## A child is the entry [code]Players/Bob[/code] with its scene file as the value (null: it is gone), its properties are the entries
## [code]Players/Bob:position[/code] and [code]Players/Bob/Health:points[/code]. Names of nodes hold neither [code]/[/code] nor [code]:[/code].


## The children that can be made again: those that are scenes.
static func children(spawn_root: Node) -> Array[Node]:
	var found: Array[Node] = []
	for child: Node in spawn_root.get_children():
		if not child.scene_file_path.is_empty() and not child.is_queued_for_deletion():
			found.append(child)
	return found


## The entry of a child.
static func at(spawn_root: NodePath, child: Node) -> String:
	return "%s/%s" % [spawn_root, child.name]


## The entry of a child's property.
static func entry(child_at: String, property: NodePath) -> String:
	return child_at + (String(property) if property.get_name_count() == 0 else "/" + String(property))


## The child's entry that a property's entry belongs to; empty if it is below none of the spawn roots.
static func child_of(property_entry: String, spawn_roots: Array[NodePath]) -> String:
	var node: String = property_entry.get_slice(":", 0)
	var closest: String = ""
	for spawn_root: NodePath in spawn_roots:
		var prefix: String = String(spawn_root) + "/"
		# What is spawned may have children that are spawned.
		if node.begins_with(prefix) and prefix.length() > closest.length():
			closest = prefix
	return closest + node.trim_prefix(closest).get_slice("/", 0) if not closest.is_empty() else ""


## Makes the children of every spawn root those of the checkpoint; how many were spawned.
static func restore(root: Node, spawn_roots: Array[NodePath], state: Dictionary, skipped: PackedStringArray) -> int:
	var count: int = 0
	for path: NodePath in spawn_roots:
		var spawn_root: Node = root.get_node_or_null(path)
		if spawn_root == null:
			skipped.append("the children of %s: there is no such node" % path)
			continue
		for child: Node in children(spawn_root):
			if not _is_scene(state.get(at(path, child)), child.scene_file_path):
				# Now, so that the name is free.
				spawn_root.remove_child(child)
				child.queue_free()
		var prefix: String = String(path) + "/"
		for key: Variant in state:
			if typeof(key) != TYPE_STRING or ":" in key or not (key as String).begins_with(prefix):
				continue
			var name: String = (key as String).trim_prefix(prefix)
			if "/" in name or typeof(state[key]) != TYPE_STRING or spawn_root.has_node(NodePath(name)):
				continue
			var problem: String = _spawn(spawn_root, name, state[key])
			if problem.is_empty():
				count += 1
			else:
				skipped.append("%s: %s" % [key, problem])
	return count


static func _is_scene(saved: Variant, scene: String) -> bool:
	return typeof(saved) == TYPE_STRING and saved == scene


static func _spawn(spawn_root: Node, name: String, scene: String) -> String:
	# Nothing but the project's own scenes, whatever a checkpoint says.
	if not (scene.begins_with("res://") or scene.begins_with("uid://")) or not ResourceLoader.exists(scene, "PackedScene"):
		return "there is no scene %s" % scene
	var packed: PackedScene = load(scene) as PackedScene
	if packed == null or not packed.can_instantiate():
		return "the scene %s cannot be instantiated" % scene
	var child: Node = packed.instantiate()
	child.name = name
	spawn_root.add_child(child, true)
	return ""
