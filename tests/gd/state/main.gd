extends Node
## Plays one act in its first incarnation and waits to be killed; tells the test what is there after each start.
##
## User arguments: [code]--notes DIR[/code], [code]--act WHAT[/code]. Notes are files [code]<incarnation>-<what>[/code].


func _ready() -> void:
	for name: String in ["Default", "Other"]:
		_spawn(name)
	if _argument("--act") == "without":
		# The test's broken variant: the scene without the node that keeps it.
		$State.free()
		note("restored", "nothing")
	else:
		var info: Dictionary = await $State.restored
		note("restored", JSON.stringify(info))
		print("restored ", JSON.stringify(info))
	if Sidekick.get_incarnation() <= 1:
		_act.call_deferred()


## Everything that is to come back, as a text.
func describe() -> String:
	var game: Node2D = $Game
	var values: Array = [
		game.get("round"), game.position.x, game.get("names"), game.get("typed"), game.get("ages"), game.get("points"),
		game.get("label"), game.get("anything"),
	]
	for mob: Node2D in $Mobs.get_children():
		values.append([mob.name, mob.scene_file_path, mob.position, mob.get("life"), mob.get_node("Health").editor_description])
	return var_to_str(values)


func note(what: String, text: String) -> void:
	var folder: String = _argument("--notes")
	if folder.is_empty():
		return
	var path: String = "%s/%d-%s" % [folder, Sidekick.get_incarnation(), what]
	var file := FileAccess.open(path + ".part", FileAccess.WRITE)
	file.store_string(text)
	file.close()
	# Whole when it is there.
	DirAccess.rename_absolute(path + ".part", path)


func _act() -> void:
	match _argument("--act"):
		"play":
			_play()
			_keep()
		"deltas":
			# By itself, at its interval: many deltas, now and then a complete one.
			$State.full_every = 3
			_play()
			for number in 20:
				$Game.round = 100 + number
				$Game.names["n%d" % number] = number
				$Mobs.get_child(number % 2).position.y = number
				if number == 10:
					$Mobs.get_child(1).free()
					_spawn("Late").life = 5
				await get_tree().create_timer(0.12).timeout
			_keep()
		"bad":
			$State.properties = $State.properties + ([^"Nobody:x", ^"Game:nothing", ^"Game:script"] as Array[NodePath])
			$State.spawn_roots = $State.spawn_roots + ([^"Nowhere"] as Array[NodePath])
			_play()
			var cyclic: Array = []
			cyclic.append(cyclic)
			$Game.anything = [{"deep": cyclic}]
			await get_tree().create_timer(0.5).timeout
			_keep()
			note("bad", "")
		"foreign":
			$State.free()
			Sidekick.checkpoint("Main/State", [1, "two"])
			note("kept", "")
		"quit":
			get_tree().quit()


func _play() -> void:
	$Game.round = 7
	$Game.position.x = 77.5
	$Game.names = {"bob": {"deep": [1, 2.5, &"z", Vector3i(1, 2, 3)]}, 5: null}
	$Game.typed.assign([3, 4, 5])
	$Game.ages = {"ann": 1.5} as Dictionary[String, float]
	$Game.points.append(Vector2(3.0, 4.0))
	$Game.label = &"seventh"
	$Game.anything = Color.RED
	$Mobs.get_node("Other").free()
	var bob := _spawn("Bob")
	bob.life = 42
	bob.position = Vector2(9.0, 9.0)
	bob.get_node("Health").editor_description = "wounded"


func _keep() -> void:
	if $State.checkpoint_now():
		note("kept", describe())
	else:
		note("refused", "")


func _spawn(mob_name: String) -> Node2D:
	var mob: Node2D = (load("res://mob.tscn") as PackedScene).instantiate()
	mob.name = mob_name
	$Mobs.add_child(mob, true)
	return mob


func _argument(argument: String) -> String:
	var arguments := OS.get_cmdline_user_args()
	var at := arguments.find(argument)
	return arguments[at + 1] if at >= 0 and at + 1 < arguments.size() else ""
