extends Node
## A game that stands still: sixty frames a second, and in each `--per-frame N` records (default 0).

var _per_frame := 0


func _ready() -> void:
	Engine.max_fps = 60
	var arguments := OS.get_cmdline_user_args()
	var at := arguments.find("--per-frame")
	if at >= 0:
		_per_frame = arguments[at + 1].to_int()
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	for number in _per_frame:
		Sidekick.record(&"bench", {"player": number, "position": Vector3.ZERO, "action": "jump", "health": 93.5})
