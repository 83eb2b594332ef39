extends Node
## The authoritative simulation: players move, fight and score, and every event is recorded.
##
## It runs at the physics rate (60 ticks a second) and knows nothing of networks or pictures. What it records are
## ordinary [code]Sidekick.record()[/code] calls: that is all a game has to do.

const SIZE := Vector2(960.0, 960.0)
const SPEED := 120.0
const REACH := 48.0
const HEALTH_MAX := 100
## Side of a square of the grid that finds neighbors without comparing everybody with everybody.
const CELL := 64.0

## How many simulated players there are. Set before the node is ready.
var player_count := 300

## Tells this match from others, and is in each record from then on. Empty until it is known whether an earlier match goes on.
var match_id := "":
	set(value):
		match_id = value
		Sidekick.set_common_fields({"match": match_id})
var tick := 0
var positions := PackedVector2Array()
var headings := PackedVector2Array()
var health := PackedInt32Array()
var scores := PackedInt32Array()

var _rng := RandomNumberGenerator.new()


func _ready() -> void:
	_rng.randomize()
	set_physics_process(false)
	for player in player_count:
		positions.append(Vector2.ZERO)
		headings.append(Vector2.ZERO)
		health.append(0)
		scores.append(0)
	# Nobody plays in a standby before it is its turn.
	await Sidekick.when_active()
	for player in player_count:
		_spawn(player)
	set_physics_process(true)


func _physics_process(delta: float) -> void:
	tick += 1
	_move(delta)
	_fight()
	# Everybody's place ten times a second would be too much to keep; one player's each tick is a good sample.
	var watched := tick % player_count
	Sidekick.record(&"position", {
		"tick": tick, "player": watched, "position": positions[watched], "health": health[watched],
	})
	if tick % 60 == 0:
		Sidekick.record(&"match.second", {
			"tick": tick, "players": player_count, "best": best_score(), "total": total_score(),
		})


func best_score() -> int:
	var best := 0
	for score in scores:
		best = maxi(best, score)
	return best


func total_score() -> int:
	var total := 0
	for score in scores:
		total += score
	return total


func _spawn(player: int) -> void:
	positions[player] = Vector2(_rng.randf() * SIZE.x, _rng.randf() * SIZE.y)
	headings[player] = Vector2.from_angle(_rng.randf() * TAU)
	health[player] = HEALTH_MAX
	Sidekick.record(&"spawn", {"tick": tick, "player": player, "position": positions[player]})


func _move(delta: float) -> void:
	for player in player_count:
		var position := positions[player] + headings[player] * SPEED * delta
		if position.x < 0.0 or position.x > SIZE.x:
			headings[player].x = -headings[player].x
		if position.y < 0.0 or position.y > SIZE.y:
			headings[player].y = -headings[player].y
		positions[player] = position.clamp(Vector2.ZERO, SIZE)


## A tenth of the players swing at the first neighbor in reach.
func _fight() -> void:
	var grid: Dictionary[Vector2i, PackedInt32Array] = {}
	for player in player_count:
		var cell := Vector2i(positions[player] / CELL)
		if not grid.has(cell):
			grid[cell] = PackedInt32Array()
		grid[cell].append(player)
	for attacker in range(tick % 10, player_count, 10):
		var cell := Vector2i(positions[attacker] / CELL)
		# Whoever respawned in this very tick may stand where nobody was.
		for victim: int in grid.get(cell, PackedInt32Array()):
			if victim != attacker and positions[attacker].distance_to(positions[victim]) < REACH:
				_hit(attacker, victim)
				break


func _hit(attacker: int, victim: int) -> void:
	var amount := _rng.randi_range(5, 25)
	health[victim] -= amount
	Sidekick.record(&"damage", {
		"tick": tick, "attacker": attacker, "victim": victim, "amount": amount,
		"weapon": &"sword", "position": positions[victim],
	})
	if health[victim] > 0:
		return
	scores[attacker] += 1
	Sidekick.record(&"kill", {
		"tick": tick, "attacker": attacker, "victim": victim, "score": scores[attacker],
	})
	_spawn(victim)
