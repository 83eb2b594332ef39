extends Node
## Prints values of every type: `case: <name> <bytes of var_to_bytes as hex> <JSON>`, one a line.
##
## The JSON is made from the values' properties, not from their encoding, so that it says independently which number is
## which. (The engine itself leaves control characters other than tab and newline as they are, which is no JSON.)
## With a file as user argument it reads hex lines from it and prints what the engine makes of them.

const SEED := 20261122
const RANDOM_COUNT := 400

var _random := RandomNumberGenerator.new()


func _ready() -> void:
	_random.seed = SEED
	var arguments := OS.get_cmdline_user_args()
	if not arguments.is_empty():
		_echo(arguments[0])
	else:
		_scalars()
		_math()
		_containers()
		_packed()
		_refused()
		for index in RANDOM_COUNT:
			var value: Variant = _random_value(0)
			_case("random_%d" % index, value, null)
	print("done")
	get_tree().quit()


## Reads one encoding a line and prints the engine's own encoding of the value it found.
func _echo(path: String) -> void:
	for line in FileAccess.get_file_as_string(path).split("\n", false):
		print("echo: ", var_to_bytes(bytes_to_var(line.hex_decode())).hex_encode())


func _case(case_name: String, value: Variant, json: Variant) -> void:
	print("case: ", case_name, " ", var_to_bytes(value).hex_encode(), " ", JSON.stringify(json, "", false, true))


func _scalars() -> void:
	_case("nil", null, null)
	_case("true", true, true)
	_case("false", false, false)
	for value: int in [0, 1, -1, 2147483647, -2147483648, 2147483648, -2147483649, 9223372036854775807]:
		_case("int_%d" % value, value, value)
	for value: float in [0.0, 0.5, 0.1, -1.5, 1e300, 1763829760.0, 1763829761.25]:
		_case("float", value, value)
	_case("nan", NAN, "nan")
	_case("inf", INF, "inf")
	_case("minus_inf", -INF, "-inf")
	for value: String in ["", "a", "fire", "f\u00fcnf \u2603 \U01F680", "quote \" back \\ line \n tab \t tab"]:
		_case("string", value, value)
	_case("string_name", &"critical", "critical")
	_case("string_with_nul", "a" + String.chr(0) + "b", "a\uFFFDb")
	_case("string_with_surrogate", "a" + String.chr(0xD800), "a\uFFFD")
	for value: String in ["", "A", "/root/Main", "Player/Sprite2D:position:x", ":property", "../Sibling"]:
		_case("node_path", NodePath(value), value)


func _math() -> void:
	_case("vector2", Vector2(0.1, -2.5), [0.1, -2.5])
	_case("vector2i", Vector2i(1, -2), [1, -2])
	_case("vector2_not_finite", Vector2(NAN, -INF), ["nan", "-inf"])
	_case("rect2", Rect2(0.1, 2, 3, 4), [0.1, 2.0, 3.0, 4.0])
	_case("rect2i", Rect2i(1, 2, 3, 4), [1, 2, 3, 4])
	_case("vector3", Vector3(0.1, 2, 3), [0.1, 2.0, 3.0])
	_case("vector3i", Vector3i(1, 2, -3), [1, 2, -3])
	_case("vector4", Vector4(0.1, 2, 3, 4), [0.1, 2.0, 3.0, 4.0])
	_case("vector4i", Vector4i(1, 2, 3, -4), [1, 2, 3, -4])
	_case("plane", Plane(Vector3(0, 1, 0), 2.5), [0.0, 1.0, 0.0, 2.5])
	_case("quaternion", Quaternion(0.1, 0.2, 0.3, 0.4), [0.1, 0.2, 0.3, 0.4])
	_case("aabb", AABB(Vector3(1, 2, 3), Vector3(4, 5, 6)), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
	var flat := Transform2D(Vector2(1, 2), Vector2(3, 4), Vector2(5, 6))
	_case("transform2d", flat, [flat.x.x, flat.x.y, flat.y.x, flat.y.y, flat.origin.x, flat.origin.y])
	var basis := Basis(Vector3(1, 2, 3), Vector3(4, 5, 6), Vector3(7, 8, 9))
	var rows: Array = [
		basis.x.x, basis.y.x, basis.z.x, basis.x.y, basis.y.y, basis.z.y, basis.x.z, basis.y.z, basis.z.z,
	]
	_case("basis", basis, rows)
	_case("transform3d", Transform3D(basis, Vector3(10, 11, 12)), rows + [10.0, 11.0, 12.0])
	var columns := [Vector4(1, 2, 3, 4), Vector4(5, 6, 7, 8), Vector4(9, 10, 11, 12), Vector4(13, 14, 15, 16)]
	var numbers: Array = []
	for column: Vector4 in columns:
		numbers += [column.x, column.y, column.z, column.w]
	_case("projection", Projection(columns[0], columns[1], columns[2], columns[3]), numbers)
	_case("color", Color(0.1, 0.2, 0.3, 0.4), [0.1, 0.2, 0.3, 0.4])


func _containers() -> void:
	_case("array", [], [])
	_case("array_mixed", [null, 1, "a", [2.5]], [null, 1, "a", [2.5]])
	_case("dictionary", {}, {})
	_case("dictionary_texts", {"hp": 90, &"mp": 0.5}, {"hp": 90, "mp": 0.5})
	_case("dictionary_keys", {1: "a", -2: "b", 0.5: "c", true: "d"}, {"1": "a", "-2": "b", "0.5": "c", "true": "d"})
	_case("dictionary_null_key", {null: 1}, {"null": 1})
	_case("dictionary_same_text", {1: "first", "1": "last"}, {"1": "last"})
	_case("dictionary_vector_key", {Vector2i(1, 2): 3}, {"[1,2]": 3})
	var ints: Array[int] = [1, 2]
	_case("array_int", ints, [1, 2])
	var nodes: Array[Node] = [null]
	_case("array_node", nodes, [null])
	var scripted: Array[Inner] = []
	_case("array_script", scripted, [])
	var callables: Array[Callable] = []
	_case("array_callable", callables, [])
	var both: Dictionary[String, float] = {"a": 0.5}
	_case("dictionary_both", both, {"a": 0.5})
	var keys: Dictionary[int, Variant] = {1: "x"}
	_case("dictionary_typed_key", keys, {"1": "x"})
	var values: Dictionary[Variant, Vector2] = {"v": Vector2(1, 2)}
	_case("dictionary_typed_value", values, {"v": [1.0, 2.0]})
	var objects: Dictionary[Node, Inner] = {}
	_case("dictionary_objects", objects, {})
	var freed := Node.new()
	freed.free()
	_case("freed_object", [freed], [null])


func _packed() -> void:
	_case("bytes", PackedByteArray([1, 2, 3, 4, 255]), Marshalls.raw_to_base64(PackedByteArray([1, 2, 3, 4, 255])))
	_case("bytes_none", PackedByteArray(), "")
	_case("int32s", PackedInt32Array([1, -1]), [1, -1])
	_case("int64s", PackedInt64Array([1, -9007199254740993]), [1, -9007199254740993])
	_case("float32s", PackedFloat32Array([0.1, NAN]), [0.1, "nan"])
	_case("float64s", PackedFloat64Array([0.1, INF]), [0.1, "inf"])
	_case("strings", PackedStringArray(["", "a", "abc", "abcd", "\u00e4"]), ["", "a", "abc", "abcd", "\u00e4"])
	_case("vector2s", PackedVector2Array([Vector2(0.1, 2), Vector2(3, 4)]), [[0.1, 2.0], [3.0, 4.0]])
	_case("vector3s", PackedVector3Array([Vector3(0.1, 2, 3)]), [[0.1, 2.0, 3.0]])
	_case("vector4s", PackedVector4Array([Vector4(0.1, 2, 3, 4)]), [[0.1, 2.0, 3.0, 4.0]])
	_case("colors", PackedColorArray([Color(0.1, 0.2, 0.3, 0.4)]), [[0.1, 0.2, 0.3, 0.4]])


func _refused() -> void:
	_case("refused_object", {"target": [self]}, null)
	_case("refused_resource", {"texture": Resource.new()}, null)
	_case("refused_callable", {"then": _ready}, null)
	_case("refused_signal", {"when": tree_exited}, null)
	_case("refused_rid", {"body": RID()}, null)
	var deep: Array = []
	for level in 64:
		deep = [deep]
	_case("refused_depth", deep, null)


func _random_value(depth: int) -> Variant:
	match _random.randi_range(0, 17 if depth < 4 else 13):
		0:
			return null
		1:
			return _random.randi() % 2 == 0
		2:
			return _random.randi() - 2147483648
		3:
			return (_random.randi() << 32) | _random.randi()
		4:
			return _random.randf_range(-1000, 1000)
		5:
			return float(_random.randi_range(-1000, 1000))
		6, 7:
			return _random_text()
		8:
			return StringName(_random_text())
		9:
			return NodePath("/root/" + _random_text() + ":x")
		10:
			return Vector3(_random.randfn(), _random.randfn(), _random.randfn())
		11:
			return Color(_random.randf(), _random.randf(), _random.randf())
		12:
			return PackedByteArray(range(_random.randi_range(0, 9)))
		13:
			return PackedStringArray([_random_text(), _random_text()])
		14, 15:
			var array: Array = []
			for index in _random.randi_range(0, 5):
				array.append(_random_value(depth + 1))
			return array
		_:
			var dictionary: Dictionary = {}
			for index in _random.randi_range(0, 5):
				dictionary[_random_text() if index < 4 else _random_value(4)] = _random_value(depth + 1)
			return dictionary


func _random_text() -> String:
	var text := ""
	for index in _random.randi_range(0, 9):
		text += String.chr([0x61, 0x7A, 0x22, 0x5C, 0x0A, 0xE4, 0x2603, 0x1F680].pick_random())
	return text


class Inner:
	extends RefCounted
