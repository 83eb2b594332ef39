extends Node2D
## What a match consists of. Defaults are set in [method _ready], as games do; they must not win over what is restored.

var round := 0
var names := {}
var typed: Array[int] = []
var ages: Dictionary[String, float] = {}
var points := PackedVector2Array()
var label: StringName = &""
var anything: Variant = null

var _is_first := true


func _ready() -> void:
	round = 1
	position = Vector2(-5.0, 3.0)
	names = {"default": 1}
	typed = [1, 2]
	points = [Vector2.ONE]
	label = &"default"


func _physics_process(_delta: float) -> void:
	if _is_first:
		_is_first = false
		(get_parent() as Node).call(&"note", "first", (get_parent() as Node).call(&"describe"))
