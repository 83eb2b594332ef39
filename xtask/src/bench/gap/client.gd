extends Node
## A player's client with the addon's own helper: it notices that the server is gone, connects again, and goes on.
##
## User arguments: the UDP port of the server's ENet host, the UDP port of the bench. A datagram is [code]WHAT UNIX_SECONDS[/code]: the moment
## at which the session was [code]opened[/code], [code]lost[/code] or [code]resumed[/code].

const RECONNECT := "res://sidekick_reconnect.gd"

var _udp := PacketPeerUDP.new()


func _ready() -> void:
	Engine.max_fps = 60
	var arguments := OS.get_cmdline_user_args()
	_udp.set_dest_address("127.0.0.1", arguments[1].to_int())
	# Not by its class: the project was never imported.
	var reconnect: Node = load(RECONNECT).new()
	reconnect.name = "Reconnect"
	add_child(reconnect)
	reconnect.opened.connect(_tell.bind("opened"))
	reconnect.lost.connect(func(_gap_ms: float) -> void: _tell("lost"))
	reconnect.resumed.connect(func(_gap_ms: float) -> void: _tell("resumed"))
	reconnect.open(func() -> MultiplayerPeer:
		var peer := ENetMultiplayerPeer.new()
		peer.create_client("127.0.0.1", arguments[0].to_int())
		return peer)


func _tell(what: String) -> void:
	_udp.put_packet(("%s %.6f" % [what, Time.get_unix_time_from_system()]).to_ascii_buffer())
