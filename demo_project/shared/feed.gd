extends Node
## What the server tells its clients about the match. The node is at the same path in both scenes.

## Said once to whoever comes in: which server process this is, and the tick at which it took the match up.
signal began(incarnation: int, tick: int)
## The match as the server knows it, each tick, and how the client's own player is doing.
signal told(tick: int, player: int, score: int, health: int)
## Where everybody is, some times a second.
signal shown(positions: PackedVector2Array, health: PackedInt32Array)


## Server: says to a client that has come in who serves it, and where the match was taken up.
func begin(peer: int, incarnation: int, tick: int) -> void:
	_begin.rpc_id(peer, incarnation, tick)


## Server: tells one client.
func tell(peer: int, tick: int, player: int, score: int, health: int) -> void:
	_take.rpc_id(peer, tick, player, score, health)


## Server: shows one client everybody.
func show(peer: int, positions: PackedVector2Array, health: PackedInt32Array) -> void:
	_look.rpc_id(peer, positions, health)


@rpc("authority", "call_remote", "reliable")
func _begin(incarnation: int, tick: int) -> void:
	began.emit(incarnation, tick)


@rpc("authority", "call_remote", "unreliable_ordered")
func _take(tick: int, player: int, score: int, health: int) -> void:
	told.emit(tick, player, score, health)


# Reliable since it is longer than a packet.
@rpc("authority", "call_remote", "reliable", 1)
func _look(positions: PackedVector2Array, health: PackedInt32Array) -> void:
	shown.emit(positions, health)
