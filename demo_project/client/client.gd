extends Node2D
## Watches one player of the arena, and shows how long the server was away when it died.
##
## [code]godot --path demo_project client/client.tscn[/code], with [code]--headless[/code] as a bot that only prints. User arguments (after
## [code]--[/code]): [code]--host NAME[/code] (127.0.0.1), [code]--port N[/code] (7711), [code]--token TEXT[/code] (who we are; random).
## What it prints for programs to read:
## [codeblock lang=text]
## client: joined {"tick":…,"player":…,"score":…}
## client: lost {"gap_ms":…}
## client: resumed {"gap_ms":…,"tick":…,"tick_before":…,"tick_began":…,"player":…,"player_before":…,"score":…,"score_before":…,
##                  "incarnation":…,"incarnation_before":…}
## [/codeblock]
## [code]gap_ms[/code] is the time from the last word of the lost server to the first state of the match that the next one told,
## [code]tick_began[/code] the tick at which that one took the match up: what lies between it and [code]tick_before[/code] is played again.
## A server that was only silent for a while is lost as well: with it the match goes on under the same [code]incarnation[/code] (0: it has no
## watchdog).

const Feed := preload("res://shared/feed.gd")
const Reconnect := preload("res://addons/sidekick/client/sidekick_reconnect.gd")
const Trouble := preload("res://server/trouble.gd")

const HEALTH_MAX := 100.0
const NOBODY := -1
const UNKNOWN := -1

@onready var _feed: Feed = $Feed
@onready var _reconnect: Reconnect = $Feed/Reconnect

var _tick := 0
var _player := NOBODY
var _score := 0
var _health := 0
var _told_usec := 0
## What was known when the server was lost; empty while nothing is to be compared.
var _before := {}
## The tick at which the server took the match up; unknown until it says so.
var _began_at := UNKNOWN
## Who serves us, as it says itself; and who told us of the match last.
var _server := UNKNOWN
var _incarnation := UNKNOWN
var _is_told := false
var _gap_ms := 0.0
var _worst_gap_ms := 0.0
var _positions := PackedVector2Array()
var _healths := PackedInt32Array()


func _init() -> void:
	Engine.max_fps = 60


func _ready() -> void:
	_feed.began.connect(_on_began)
	_feed.told.connect(_on_told)
	_feed.shown.connect(_on_shown)
	_reconnect.lost.connect(_on_lost)
	_reconnect.token = Trouble.user_argument("--token")
	_reconnect.open(_make_peer)


func _process(_delta: float) -> void:
	if DisplayServer.get_name() != "headless":
		queue_redraw()


func _draw() -> void:
	draw_rect(Rect2(0.0, 0.0, 960.0, 960.0), Color(0.08, 0.09, 0.12))
	for player in _positions.size():
		var life := clampf(_healths[player] / HEALTH_MAX, 0.0, 1.0)
		draw_circle(_positions[player], 6.0, Color(1.0 - life, life, 0.3))
		if player == _player:
			draw_arc(_positions[player], 12.0, 0.0, TAU, 24, Color.WHITE, 2.0)
	var text := "tick %d   player %d   score %d   last gap %.0f ms   worst %.0f ms" % [
		_tick, _player, _score, _gap_ms, _worst_gap_ms,
	]
	draw_string(ThemeDB.fallback_font, Vector2(16.0, 32.0), text, HORIZONTAL_ALIGNMENT_LEFT, -1.0, 20)
	if not _reconnect.is_open():
		text = "the server is away: %.0f ms" % _reconnect.gap_ms()
		draw_string(ThemeDB.fallback_font, Vector2(16.0, 64.0), text, HORIZONTAL_ALIGNMENT_LEFT, -1.0, 20, Color.ORANGE)


func _make_peer() -> MultiplayerPeer:
	var host := Trouble.user_argument("--host")
	var port := Trouble.user_argument("--port")
	var peer := ENetMultiplayerPeer.new()
	peer.create_client("127.0.0.1" if host.is_empty() else host, port.to_int() if port.is_valid_int() else 7711)
	return peer


func _on_began(incarnation: int, tick: int) -> void:
	_server = incarnation
	_began_at = tick


func _on_told(tick: int, player: int, score: int, health: int) -> void:
	_reconnect.heard()
	# It overtook what the server says of itself: nobody knows yet whose it is.
	if _began_at == UNKNOWN:
		return
	var now_usec := Time.get_ticks_usec()
	if not _is_told:
		_is_told = true
		_say("joined", {"tick": tick, "player": player, "score": score})
	elif not _before.is_empty():
		_gap_ms = (now_usec - _told_usec) / 1000.0
		_worst_gap_ms = maxf(_worst_gap_ms, _gap_ms)
		_before.merge({"gap_ms": snappedf(_gap_ms, 0.1), "tick": tick, "tick_began": _began_at, "player": player, "score": score})
		_before["incarnation"] = _server
		_say("resumed", _before)
		_before = {}
	_incarnation = _server
	_tick = tick
	_player = player
	_score = score
	_health = health
	_told_usec = now_usec


func _on_shown(positions: PackedVector2Array, healths: PackedInt32Array) -> void:
	_positions = positions
	_healths = healths


func _on_lost(gap_ms: float) -> void:
	_began_at = UNKNOWN
	if _is_told:
		_before = {"tick_before": _tick, "player_before": _player, "score_before": _score, "incarnation_before": _incarnation}
	_say("lost", {"gap_ms": snappedf(gap_ms, 0.1)})


func _say(what: String, data: Dictionary) -> void:
	print("client: %s %s" % [what, JSON.stringify(data)])
