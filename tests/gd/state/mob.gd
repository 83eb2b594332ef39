extends Node2D
## Something that is spawned while the game runs.

var life := 0


func _ready() -> void:
	life = 100
	position = Vector2(-1.0, -1.0)
