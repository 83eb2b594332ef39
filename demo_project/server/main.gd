extends Node2D
## Starts the arena, lets players in once the match is as it was, tells the watchdog that it is ready, and draws it when there is
## a window. With [code][engine] standby = 1[/code] it is booted twice, and the second one waits until the first one has died.
##
## That the match goes on after a crash is the work of the State node in main.tscn; nothing here or in the arena saves anything.
## User arguments (after [code]--[/code]): [code]--players N[/code], [code]--port N[/code] (see door.gd), [code]--witness DIR[/code] (notes there, once a
## frame, how many records were taken, so that somebody else can check what became of them), and those of
## [code]trouble.gd[/code].

# Preloaded, not [code]class_name[/code]: a class name is only known after an import, and a fresh clone had none.
const Arena := preload("res://server/arena.gd")
const Door := preload("res://server/door.gd")
const State := preload("res://addons/sidekick/sidekick_state.gd")
const Trouble := preload("res://server/trouble.gd")

@onready var _arena: Arena = $Arena
@onready var _door: Door = $Door
@onready var _state: State = $State

var _headless := DisplayServer.get_name() == "headless"
var _witness: FileAccess


func _init() -> void:
	# A headless server has no screen to wait for: without this it loops as fast as it can.
	Engine.max_fps = 60


func _enter_tree() -> void:
	var players := Trouble.user_argument("--players")
	if players.is_valid_int():
		($Arena as Arena).player_count = clampi(players.to_int(), 2, 2000)


func _ready() -> void:
	Sidekick.quit_requested.connect(_on_quit_requested)
	await Sidekick.when_active()
	var witness := Trouble.user_argument("--witness")
	if not witness.is_empty():
		_witness = FileAccess.open("%s/%d" % [witness, Sidekick.get_incarnation()], FileAccess.WRITE)
		_witness.store_line(Sidekick.get_stats()["epoch"])
	print("arena: incarnation %d, %d players, relaunch: %s" % [
		Sidekick.get_incarnation(), _arena.player_count, Sidekick.is_relaunch(),
	])
	if Sidekick.is_relaunch():
		# The report is written while this process starts: it may be there a little later.
		print("arena: last death: %s" % Sidekick.get_last_death().get("cause", "not known yet"))
	var info: Dictionary = await _state.restored
	if info["status"] == "restored":
		print("arena: goes on at tick %d with %d points, checkpointed %.2f s ago" % [
			_arena.tick, _arena.total_score(), info.get("age_s", NAN),
		])
	if _arena.match_id.is_empty():
		_arena.match_id = "%08x" % randi()
	_door.open()
	Sidekick.mark_ready()


func _process(_delta: float) -> void:
	if not _headless:
		queue_redraw()
	if _witness != null:
		# Handed to the kernel at once: it is still there when this process is killed.
		_witness.store_line(str(Sidekick.get_stats()["recorded"]))
		_witness.flush()


func _draw() -> void:
	draw_rect(Rect2(Vector2.ZERO, Arena.SIZE), Color(0.08, 0.09, 0.12))
	for player in _arena.player_count:
		var life := clampf(_arena.health[player] / float(Arena.HEALTH_MAX), 0.0, 1.0)
		draw_circle(_arena.positions[player], 6.0, Color(1.0 - life, life, 0.3))


## The watchdog asks us to stop: finish the match, wait until everything is committed, go.
func _on_quit_requested(grace_seconds: float) -> void:
	if Trouble.ignores_quit:
		print("arena: asked to quit, ignored")
		return
	Sidekick.record(&"match.end", {"tick": _arena.tick, "total": _arena.total_score()})
	await Sidekick.flush(maxf(grace_seconds - 1.0, 0.1))
	get_tree().quit()
