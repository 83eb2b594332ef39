extends Node
## A match that goes on where it was: each physics tick counts, every sixth is checkpointed, each is told to the bot.
##
## The same script is the bare engine's, without the extension: there it counts from 0 and keeps nothing.
##
## User arguments: the UDP port that it binds, the UDP port of the bot, the UDP port of its ENet host. A datagram is [code]PID COUNTER RESTORED SAVED[/code]: this tick,
## the tick that was restored, the tick of the last checkpoint whose call returned.

const KEY := "match"
## 100 ms.
const CHECKPOINT_EVERY := 6
const RECONNECT := "res://addons/sidekick/client/sidekick_reconnect.gd"
## Several times as many as there are clients.
const CLIENTS_MAX := 32

var _udp := PacketPeerUDP.new()
## Not by its name: the bare engine does not know it.
var _sidekick: Object
var _is_active := false
var _counter := 0
var _restored := 0
var _saved := 0


func _ready() -> void:
	Engine.max_fps = 60
	var arguments := OS.get_cmdline_user_args()
	if Engine.has_singleton(&"Sidekick"):
		_sidekick = Engine.get_singleton(&"Sidekick")
		await _sidekick.when_active()
		var state: Dictionary = _sidekick.restore(KEY, {})
		_counter = state.get("counter", 0)
	_restored = _counter
	_saved = _counter
	var error := _udp.bind(arguments[0].to_int(), "127.0.0.1")
	if error != OK:
		push_error("the port %s is taken: %s" % [arguments[0], error_string(error)])
		get_tree().quit(1)
		return
	_udp.set_dest_address("127.0.0.1", arguments[1].to_int())
	_open_door(arguments[2].to_int())
	_is_active = true
	if _sidekick != null:
		_sidekick.mark_ready()


## For the client. The bare engine has an ENet host as well, and nobody to talk to.
func _open_door(port: int) -> void:
	var peer := ENetMultiplayerPeer.new()
	var error := peer.create_server(port, CLIENTS_MAX)
	if error != OK:
		push_error("the port %d is taken: %s" % [port, error_string(error)])
		get_tree().quit(1)
		return
	multiplayer.multiplayer_peer = peer
	if _sidekick != null:
		var reconnect: Node = load(RECONNECT).new()
		reconnect.name = "Reconnect"
		add_child(reconnect)
		reconnect.serve()


func _physics_process(_delta: float) -> void:
	if not _is_active:
		return
	_counter += 1
	if _sidekick != null and _counter % CHECKPOINT_EVERY == 0:
		if _sidekick.checkpoint(KEY, {"counter": _counter}) != 0:
			_saved = _counter
	_udp.put_packet(("%d %d %d %d" % [OS.get_process_id(), _counter, _restored, _saved]).to_ascii_buffer())
