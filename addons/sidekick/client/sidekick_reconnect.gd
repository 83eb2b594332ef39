class_name SidekickReconnect
extends Node
## Carries a player's session over the death of the server: the client notices within a fraction of a second that the server is gone,
## connects again as soon as the next one listens, and says who it is.
##
## Put a node with this script at the same path in the client's scene and the server's (it calls itself over the network). A server is told of
## each session that begins or goes on, and finds the player by the session's token, for peer ids change:
## [codeblock]
## # The server, once its state is restored and its port is open.
## $Reconnect.serve()
## $Reconnect.session_opened.connect(func(token: String, peer: int) -> void:
##     if not players.has(token):
##         players[token] = make_player()
##     players[token].peer = peer)
##
## # The client.
## $Reconnect.lost.connect(func(gap_ms: float) -> void: $Overlay.show())
## $Reconnect.resumed.connect(func(gap_ms: float) -> void: $Overlay.hide())
## $Reconnect.open(func() -> MultiplayerPeer:
##     var peer := ENetMultiplayerPeer.new()
##     peer.create_client("game.example.com", 7711)
##     return peer)
## [/codeblock]
## ENet itself takes a silent server for gone after many seconds. This node sends a ping of its own each [member ping_every_s] and takes an
## answer that stays out for [member lost_after_s] for the end; a client that stands still itself (loading a level) is not fooled by that.
## [br][br]
## Give the server several times as many places ([code]max_clients[/code]) as there are players: one that stood still for a second finds some
## attempts of each of them.
## [br][br]
## The token is what proves who the player is: 128 random bits, made by the client, known to it and to the server alone. Use a connection with
## DTLS where others can listen.

## Client: the server has been silent for [member lost_after_s]; [param gap_ms] since it was last heard of. Trying again from now on.
signal lost(gap_ms: float)
## Client: the session goes on, [param gap_ms] milliseconds after the server was last heard of.
signal resumed(gap_ms: float)
## Client: the session has begun.
signal opened
## Server: the session [param token] has begun or goes on with [param peer].
signal session_opened(token: String, peer: int)
## Server: the connection of [param token] is gone. The session is not over: its client may come back.
signal session_silent(token: String)

enum State { CLOSED, SERVING, CONNECTING, GREETING, OPEN }

## Bytes of a token that a server accepts.
const TOKEN_BYTES_MAX: int = 64
## One attempt to connect is given at least this many round trips.
const ROUND_TRIPS_PER_ATTEMPT: float = 4.0
## Each attempt is given so much more time than the one before, up to the maximum: a server that stands still finds every attempt of that time
## waiting for it, and ENet keeps a place for each of them for some seconds.
const ATTEMPT_GROWTH: float = 1.2
const ATTEMPT_S_MAX: float = 2.0

## Silence of the server after which the connection counts as lost. Less than three round trips makes false alarms.
@export_range(0.05, 10.0, 0.05, "or_greater", "suffix:s") var lost_after_s: float = 0.3
## Time between two pings.
@export_range(0.01, 1.0, 0.01, "or_greater", "suffix:s") var ping_every_s: float = 0.1
## Time that one attempt to connect is given before the next; more where the round trip is long. Short is good: a port that nobody listens at
## yet answers nothing, and ENet itself asks again only after half a second.
@export_range(0.02, 2.0, 0.01, "or_greater", "suffix:s") var attempt_s: float = 0.15

## Who we are. Made at random by [method open] unless it was set, as by a client that was started again.
var token: String = ""
## The last round trip of a ping, in seconds; 0 before the first.
var round_trip_s: float = 0.0

var _make_peer: Callable
var _state: State = State.CLOSED
## Since the server was last heard of, but at most a quarter of [member lost_after_s] a frame: our own standing still is not its silence.
var _silence_s: float = 0.0
var _was_heard: bool = false
var _heard_usec: int = 0
var _since_ping_s: float = 0.0
var _attempt_left_s: float = 0.0
var _attempts: int = 0
var _was_open: bool = false
## Server: the token of each peer, and the peer of each token.
var _tokens: Dictionary[int, String] = {}
var _peers: Dictionary[String, int] = {}


## Client: connects with what [param make_peer] returns (a new [MultiplayerPeer] each time), now and whenever the server was lost.
func open(make_peer: Callable) -> void:
	if token.is_empty():
		token = Crypto.new().generate_random_bytes(16).hex_encode()
	_make_peer = make_peer
	_heard_usec = Time.get_ticks_usec()
	if not multiplayer.connected_to_server.is_connected(_on_connected):
		multiplayer.connected_to_server.connect(_on_connected)
	_attempts = 0
	_connect()


## Client: ends the session's connection and stays away.
func close() -> void:
	_state = State.CLOSED
	_drop_peer()


## Server: answers pings and takes sessions, on the peer that [member Node.multiplayer] has.
func serve() -> void:
	_state = State.SERVING
	if not multiplayer.peer_disconnected.is_connected(_on_peer_disconnected):
		multiplayer.peer_disconnected.connect(_on_peer_disconnected)


## Client: the server was heard of, by something else than this node's own messages. Spares pings that get lost.
func heard() -> void:
	if _state == State.OPEN:
		_was_heard = true
		_heard_usec = Time.get_ticks_usec()


## Client: whether the session is connected at the moment.
func is_open() -> bool:
	return _state == State.OPEN


## Client: milliseconds since the server was last heard of.
func gap_ms() -> float:
	return (Time.get_ticks_usec() - _heard_usec) / 1000.0


## Server: the peer that plays for [param of_token] now; 0 while it is away.
func peer_of(of_token: String) -> int:
	return _peers.get(of_token, 0)


## Server: the session of [param peer]; empty before it has said who it is.
func token_of(peer: int) -> String:
	return _tokens.get(peer, "")


func _process(delta: float) -> void:
	match _state:
		State.OPEN:
			# What was heard in this frame came within its delta.
			_silence_s = 0.0 if _was_heard else _silence_s + minf(delta, lost_after_s / 4.0)
			_was_heard = false
			_since_ping_s += delta
			if _silence_s >= lost_after_s or not _is_connected():
				_lose()
			elif _since_ping_s >= ping_every_s:
				_since_ping_s = 0.0
				_ping.rpc_id(MultiplayerPeer.TARGET_PEER_SERVER, Time.get_ticks_usec())
		State.CONNECTING, State.GREETING:
			_attempt_left_s -= delta
			if _attempt_left_s <= 0.0:
				_connect()


## One more attempt, with a peer of its own.
func _connect() -> void:
	_drop_peer()
	_state = State.CONNECTING
	# A server that is far away, or busy, must not be called off each time before it could answer.
	var patience_s: float = maxf(attempt_s, round_trip_s * ROUND_TRIPS_PER_ATTEMPT)
	_attempt_left_s = minf(patience_s * pow(ATTEMPT_GROWTH, _attempts), maxf(ATTEMPT_S_MAX, patience_s))
	_attempts += 1
	var peer: MultiplayerPeer = _make_peer.call()
	if peer != null and peer.get_connection_status() != MultiplayerPeer.CONNECTION_DISCONNECTED:
		multiplayer.multiplayer_peer = peer


func _is_connected() -> bool:
	return multiplayer.multiplayer_peer.get_connection_status() == MultiplayerPeer.CONNECTION_CONNECTED


func _lose() -> void:
	_attempts = 0
	lost.emit(gap_ms())
	# A listener may have closed it.
	if _state == State.OPEN:
		_connect()


func _drop_peer() -> void:
	var peer: MultiplayerPeer = multiplayer.multiplayer_peer
	if peer != null and not peer is OfflineMultiplayerPeer:
		peer.close()
		multiplayer.multiplayer_peer = OfflineMultiplayerPeer.new()


func _on_connected() -> void:
	if _state == State.CONNECTING:
		_state = State.GREETING
		# The greeting travels as long as the handshake.
		_attempt_left_s = maxf(_attempt_left_s, attempt_s)
		_greet.rpc_id(MultiplayerPeer.TARGET_PEER_SERVER, token)


func _on_peer_disconnected(peer: int) -> void:
	var gone: String = _tokens.get(peer, "")
	_tokens.erase(peer)
	# It may be back already, as another peer.
	if not gone.is_empty() and _peers.get(gone, 0) == peer:
		_peers.erase(gone)
		session_silent.emit(gone)


@rpc("any_peer", "call_remote", "unreliable")
func _ping(sent_usec: int) -> void:
	var peer: int = multiplayer.get_remote_sender_id()
	if _state == State.SERVING and _tokens.has(peer):
		_pong.rpc_id(peer, sent_usec)


@rpc("authority", "call_remote", "unreliable")
func _pong(sent_usec: int) -> void:
	round_trip_s = clampf((Time.get_ticks_usec() - sent_usec) / 1e6, 0.0, 10.0)
	heard()


@rpc("any_peer", "call_remote", "reliable")
func _greet(from_token: String) -> void:
	var peer: int = multiplayer.get_remote_sender_id()
	var bytes: int = from_token.to_utf8_buffer().size()
	if _state != State.SERVING or bytes == 0 or bytes > TOKEN_BYTES_MAX or _tokens.has(peer):
		return
	var before: int = _peers.get(from_token, 0)
	_tokens[peer] = from_token
	_peers[from_token] = peer
	if before != 0:
		# The same player on a new connection; the old one is dead without our knowing.
		_tokens.erase(before)
		multiplayer.multiplayer_peer.disconnect_peer(before)
	session_opened.emit(from_token, peer)
	_welcome.rpc_id(peer)


@rpc("authority", "call_remote", "reliable")
func _welcome() -> void:
	if _state != State.GREETING:
		return
	var gap: float = gap_ms()
	var is_new: bool = not _was_open
	_was_open = true
	_state = State.OPEN
	_attempts = 0
	_since_ping_s = ping_every_s
	heard()
	if is_new:
		opened.emit()
	else:
		resumed.emit(gap)
