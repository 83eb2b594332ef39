@tool
extends EditorInspectorPlugin
## Buttons in the inspector of a [SidekickState], to add properties and nodes by picking them.

const StateNode := preload("res://addons/sidekick/sidekick_state.gd")


func _can_handle(object: Object) -> bool:
	return object is StateNode


func _parse_property(
	object: Object,
	_type: Variant.Type,
	name: String,
	_hint_type: PropertyHint,
	_hint_string: String,
	_usage_flags: int,
	_wide: bool,
) -> bool:
	var state: StateNode = object as StateNode
	if name == "properties":
		_add_button("Add Property to Keep...", pick_property.bind(state))
	elif name == "spawn_roots":
		_add_button("Add Node Whose Children are Spawned...", pick_spawn_root.bind(state))
	return false


## Lets the user pick a node, then one of its properties.
func pick_property(state: StateNode) -> void:
	EditorInterface.popup_node_selector(_on_node_picked.bind(state))


## Lets the user pick a node.
func pick_spawn_root(state: StateNode) -> void:
	EditorInterface.popup_node_selector(_on_spawn_root_picked.bind(state))


## Adds [param property] ([code]^":position"[/code]) of [param node] to what is kept.
func add_property(property: NodePath, node: Node, state: StateNode) -> void:
	var at: String = _path_from_root(node, state)
	if not property.is_empty() and not at.is_empty():
		_append(state, &"properties", NodePath(("" if at == "." else at) + String(property)), "Keep a Property")


## Adds [param node] to those whose children are kept.
func add_spawn_root(node: Node, state: StateNode) -> void:
	var at: String = _path_from_root(node, state)
	if not at.is_empty():
		_append(state, &"spawn_roots", NodePath(at), "Keep Spawned Children")


func _add_button(text: String, on_pressed: Callable) -> void:
	var button: Button = Button.new()
	button.text = text
	button.pressed.connect(on_pressed)
	add_custom_control(button)


## [param path] begins at the edited scene's root; it is empty when the dialog was canceled.
func _on_node_picked(path: NodePath, state: StateNode) -> void:
	var node: Node = _node_at(path)
	if node != null:
		# The first dialog has to be gone before the second comes.
		EditorInterface.popup_property_selector.call_deferred(node, add_property.bind(node, state))


func _on_spawn_root_picked(path: NodePath, state: StateNode) -> void:
	var node: Node = _node_at(path)
	if node != null:
		add_spawn_root(node, state)


func _node_at(path: NodePath) -> Node:
	var scene: Node = EditorInterface.get_edited_scene_root()
	return scene.get_node_or_null(path) if scene != null and not path.is_empty() else null


func _path_from_root(node: Node, state: StateNode) -> String:
	var root: Node = state.get_node_or_null(state.root_path)
	return String(root.get_path_to(node)) if root != null else ""


func _append(state: StateNode, list: StringName, path: NodePath, action: String) -> void:
	var before: Array[NodePath] = state.get(list)
	if path in before:
		return
	var after: Array[NodePath] = before.duplicate()
	after.append(path)
	var history: EditorUndoRedoManager = EditorInterface.get_editor_undo_redo()
	history.create_action(action, UndoRedo.MERGE_DISABLE, state)
	history.add_do_property(state, list, after)
	history.add_undo_property(state, list, before)
	history.commit_action()
