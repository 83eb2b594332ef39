extends RefCounted
## Reads and writes one property of a node, and says in words why it cannot. Part of [SidekickState].

## How deep arrays and dictionaries may be nested; a record may be 64 deep, and the state itself is one of these levels.
const DEPTH_MAX: int = 60
## Types that mean something only inside the process.
const UNSTORABLE: Dictionary[Variant.Type, String] = {
	TYPE_OBJECT: "an object (keep its properties, or its path)",
	TYPE_CALLABLE: "a Callable",
	TYPE_SIGNAL: "a Signal",
	TYPE_RID: "an RID",
}
## Pairs of a saved and a declared type between which nothing gets lost that a game would miss.
const CONVERTIBLE: Dictionary[Variant.Type, Array] = {
	TYPE_INT: [TYPE_FLOAT],
	TYPE_FLOAT: [TYPE_INT],
	TYPE_STRING: [TYPE_STRING_NAME, TYPE_NODE_PATH],
	TYPE_STRING_NAME: [TYPE_STRING, TYPE_NODE_PATH],
	TYPE_NODE_PATH: [TYPE_STRING, TYPE_STRING_NAME],
}

## What was read; meaningless where there is a [member problem].
var value: Variant = null
## Why there is no value, as the end of a sentence; empty when there is one.
var problem: String = ""


## Reads [param path] ([code]^"Arena:tick"[/code], [code]^":position:x"[/code]) from [param root] on.
func read(root: Node, path: NodePath) -> void:
	value = null
	problem = ""
	var node: Node = node_of(root, path)
	if node == null:
		problem = "there is no node %s" % path.get_concatenated_names()
		return
	if path.get_subname_count() == 0:
		problem = "it names no property (as in \"Arena:tick\")"
		return
	value = node.get_indexed(property_of(path))
	# Null is what a property holds, or what is not there.
	if value == null and not is_there(node, path):
		problem = "%s has no property %s" % [node.name, path.get_concatenated_subnames()]
	elif UNSTORABLE.has(typeof(value)) and value != null:
		problem = "it holds %s, which cannot be stored" % UNSTORABLE[typeof(value)]


## Sets [param path] to [param saved]; what stood against it, as the end of a sentence, or nothing.
static func write(root: Node, path: NodePath, saved: Variant) -> String:
	var node: Node = node_of(root, path)
	if node == null:
		return "there is no node %s" % path.get_concatenated_names()
	if not is_there(node, path):
		return "%s has no property %s" % [node.name, path.get_concatenated_subnames()]
	var current: Variant = node.get_indexed(property_of(path))
	var declared: Variant.Type = typeof(current) as Variant.Type
	if path.get_subname_count() == 1:
		declared = declared_type(node, path.get_subname(0))
	if declared == TYPE_NIL:
		node.set_indexed(property_of(path), saved)
		return ""
	var fitting: Variant = fit(saved, declared, current)
	if fitting == null:
		return "it is a %s, saved was a %s" % [_type_text(declared, current), _type_text(typeof(saved) as Variant.Type, saved)]
	node.set_indexed(property_of(path), fitting)
	return ""


## [param saved] as a value of type [param declared], or null where it is none. Typed containers take the types of [param current].
static func fit(saved: Variant, declared: Variant.Type, current: Variant) -> Variant:
	var type: Variant.Type = typeof(saved) as Variant.Type
	if type != declared:
		return type_convert(saved, declared) if declared in CONVERTIBLE.get(type, []) else null
	if type == TYPE_ARRAY and typeof(current) == TYPE_ARRAY:
		return _fit_array(saved, current)
	if type == TYPE_DICTIONARY and typeof(current) == TYPE_DICTIONARY:
		return _fit_dictionary(saved, current)
	return saved


## Whether two values are the same to whoever restores them.
static func same(one: Variant, other: Variant) -> bool:
	return typeof(one) == typeof(other) and one == other


## What the game may change afterwards without changing what is returned here.
static func copy(original: Variant) -> Variant:
	if typeof(original) == TYPE_ARRAY:
		return (original as Array).duplicate(true)
	if typeof(original) == TYPE_DICTIONARY:
		return (original as Dictionary).duplicate(true)
	if typeof(original) >= TYPE_PACKED_BYTE_ARRAY and typeof(original) < TYPE_MAX:
		# Packed arrays are shared, too.
		return original.duplicate()
	return original


## Why a value cannot be stored, as the end of a sentence; empty if it can. Walks arrays and dictionaries to their ends.
static func why_unstorable(inside: Variant, depth: int = 0) -> String:
	var type: Variant.Type = typeof(inside) as Variant.Type
	if UNSTORABLE.has(type):
		return "" if inside == null else "it holds %s" % UNSTORABLE[type]
	if type != TYPE_ARRAY and type != TYPE_DICTIONARY:
		return ""
	if depth >= DEPTH_MAX:
		return "it is nested more than %d deep, or holds itself" % DEPTH_MAX
	var members: Array = inside if type == TYPE_ARRAY else (inside as Dictionary).keys() + (inside as Dictionary).values()
	for member: Variant in members:
		var problem_inside: String = why_unstorable(member, depth + 1)
		if not problem_inside.is_empty():
			return problem_inside
	return ""


## The node that a path from [param root] on names; null if it is not there.
static func node_of(root: Node, path: NodePath) -> Node:
	if path.get_name_count() == 0:
		return root
	return root.get_node_or_null(NodePath(String(path.get_concatenated_names())))


## The part of a path behind the node.
static func property_of(path: NodePath) -> NodePath:
	return NodePath(":" + String(path.get_concatenated_subnames()))


## Whether [param node] has the property; of what a property may hold, everything is taken to be there.
static func is_there(node: Node, path: NodePath) -> bool:
	if path.get_subname_count() == 0:
		return false
	if not path.get_subname(0) in node:
		return Engine.is_editor_hint() and _is_declared(node, path.get_subname(0))
	if path.get_subname_count() == 1 or node.get_indexed(property_of(path)) != null:
		return true
	return typeof(node.get(path.get_subname(0))) in [TYPE_DICTIONARY, TYPE_OBJECT]


## The type that a property was declared with; [constant TYPE_NIL] for any.
static func declared_type(node: Node, property: StringName) -> Variant.Type:
	for info: Dictionary in node.get_property_list():
		if info["name"] == property:
			return info["type"]
	return TYPE_NIL


## In the editor scripts do not run, so that their variables are not there.
static func _is_declared(node: Node, property: StringName) -> bool:
	var script: Script = node.get_script()
	if script == null:
		return false
	return script.get_script_property_list().any(func(info: Dictionary) -> bool: return info["name"] == property)


static func _fit_array(saved: Array, current: Array) -> Variant:
	if not current.is_typed() or saved.is_same_typed(current):
		return saved
	var type: int = current.get_typed_builtin()
	for member: Variant in saved:
		if typeof(member) != type:
			return null
	return Array(saved, type, current.get_typed_class_name(), current.get_typed_script())


static func _fit_dictionary(saved: Dictionary, current: Dictionary) -> Variant:
	if not current.is_typed() or saved.is_same_typed(current):
		return saved
	for key: Variant in saved:
		var is_key: bool = not current.is_typed_key() or typeof(key) == current.get_typed_key_builtin()
		var is_value: bool = not current.is_typed_value() or typeof(saved[key]) == current.get_typed_value_builtin()
		if not is_key or not is_value:
			return null
	return Dictionary(
		saved,
		current.get_typed_key_builtin(), current.get_typed_key_class_name(), current.get_typed_key_script(),
		current.get_typed_value_builtin(), current.get_typed_value_class_name(), current.get_typed_value_script(),
	)


static func _type_text(type: Variant.Type, example: Variant) -> String:
	if typeof(example) == TYPE_ARRAY and type == TYPE_ARRAY and (example as Array).is_typed():
		return "Array[%s]" % type_string((example as Array).get_typed_builtin())
	return type_string(type)
