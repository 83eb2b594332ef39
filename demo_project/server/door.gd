extends Node
## Lets clients in and tells them about the match. Each session has a player of its own, also after a relaunch: the seats are
## among what main.tscn's State node keeps.
##
## User argument: [code]--port N[/code], UDP (default 7711; 0: nobody comes in).

const Arena := preload("res://server/arena.gd")
const Feed := preload("res://shared/feed.gd")
const Reconnect := preload("res://addons/sidekick/client/sidekick_reconnect.gd")
const Trouble := preload("res://server/trouble.gd")

const PORT := 7711
const CLIENTS_MAX := 32
## Ticks between two pictures of the whole arena.
const SHOW_EVERY := 6

## The player of each session's token.
var seats: Dictionary[String, int] = {}

var _began_at := 0

@onready var _arena: Arena = $"../Arena"
@onready var _feed: Feed = $"../Feed"
@onready var _reconnect: Reconnect = $"../Feed/Reconnect"


## Opens the port. To be called once the match is as it was: whoever comes in must not see anything else.
func open() -> void:
	var argument := Trouble.user_argument("--port")
	var port := argument.to_int() if argument.is_valid_int() else PORT
	if port == 0:
		return
	var peer := ENetMultiplayerPeer.new()
	var error := peer.create_server(port, CLIENTS_MAX)
	if error != OK:
		push_warning("arena: nobody can come in: UDP port %d: %s" % [port, error_string(error)])
		return
	multiplayer.multiplayer_peer = peer
	_began_at = _arena.tick
	_reconnect.session_opened.connect(_on_session_opened)
	_reconnect.serve()
	print("arena: open on UDP port %d" % port)


func _physics_process(_delta: float) -> void:
	for token in seats:
		var peer := _reconnect.peer_of(token)
		if peer == 0:
			continue
		var player := seats[token]
		_feed.tell(peer, _arena.tick, player, _arena.scores[player], _arena.health[player])
		if _arena.tick % SHOW_EVERY == 0:
			_feed.show(peer, _arena.positions, _arena.health)


func _on_session_opened(token: String, peer: int) -> void:
	_feed.begin(peer, Sidekick.get_incarnation(), _began_at)
	if not seats.has(token):
		seats[token] = _best_free_player()
		Sidekick.record(&"join", {"tick": _arena.tick, "player": seats[token]})


## A newcomer gets the best player that nobody has.
func _best_free_player() -> int:
	var best := 0
	for player in _arena.player_count:
		if seats.values().has(best) or (_arena.scores[player] > _arena.scores[best] and not seats.values().has(player)):
			best = player
	return best
