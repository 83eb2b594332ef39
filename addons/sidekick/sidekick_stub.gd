extends Node
## The members of the native singleton [code]Sidekick[/code] for platforms without the library.
##
## Where a project also runs on a platform for which the addon has no library (web, mobile), add this script as an autoload
## called [code]Sidekick[/code]. Where the library is there it hands everything on to it; elsewhere records are only counted,
## as without a watchdog.

signal activated
signal watchdog_connected
signal watchdog_lost
signal committed(seq: int)
signal uploaded(seq: int)
signal quit_requested(grace_seconds: float)
signal memory_high(bytes: int)

## The extension's [code]SidekickStore[/code], or [StubStore] where there is no library.
var store: RefCounted:
	get = get_store

## The extension's singleton; null where there is no library.
var _native: Object = null
var _recorded: int = 0
var _flushes: Array[Flush] = []
var _store: StubStore = null
var _restored: Dictionary = {}


func _init() -> void:
	if not Engine.has_singleton(&"Sidekick"):
		return
	_native = Engine.get_singleton(&"Sidekick")
	_native.connect(&"activated", activated.emit)
	_native.connect(&"watchdog_connected", watchdog_connected.emit)
	_native.connect(&"watchdog_lost", watchdog_lost.emit)
	_native.connect(&"committed", committed.emit)
	_native.connect(&"uploaded", uploaded.emit)
	_native.connect(&"memory_high", memory_high.emit)
	_native.connect(&"quit_requested", _on_quit_requested)


## Records one event; its sequence number, or 0 if it was not recorded.
func record(stream: StringName, data: Variant) -> int:
	if _native != null:
		return _native.call(&"record", stream, data)
	_recorded += 1
	return 0


## Puts [param fields] into every record from now on whose data is a dictionary, in place of those set before.
func set_common_fields(fields: Dictionary) -> void:
	if _native != null:
		_native.call(&"set_common_fields", fields)


## [code]await Sidekick.flush()[/code]: true when everything recorded before is on disk.
func flush(timeout_s: float = 5.0) -> Signal:
	if _native != null:
		return _native.call(&"flush", timeout_s)
	var waiting: Flush = Flush.new()
	_flushes.append(waiting)
	if _flushes.size() == 1:
		_complete_flushes.call_deferred()
	return waiting.completed


## Keeps [param state] for the next server process; its sequence number, or 0 if it was not kept.
func checkpoint(key: String, state: Variant) -> int:
	if _native != null:
		return _native.call(&"checkpoint", key, state)
	_recorded += 1
	return 0


## As [method checkpoint], of what has changed; 0 if a whole one has to come first.
func checkpoint_delta(key: String, delta: Dictionary) -> int:
	if _native != null:
		return _native.call(&"checkpoint_delta", key, delta)
	_recorded += 1
	return 0


## Takes everything away that is kept under the key; the call's sequence number, or 0 if it was not taken.
func forget_checkpoint(key: String) -> int:
	if _native != null:
		return _native.call(&"forget_checkpoint", key)
	_recorded += 1
	return 0


## The state that the last server process kept, or [param default].
func restore(key: String, default: Variant = null, timeout_s: float = 5.0) -> Variant:
	if _native != null:
		return _native.call(&"restore", key, default, timeout_s)
	_restored[key] = true
	return default


## What the last [method restore] of the key came to.
func restore_info(key: String) -> Dictionary:
	if _native != null:
		return _native.call(&"restore_info", key)
	if not _restored.has(key):
		return {}
	return {
		"status": "unsupervised",
		"age_s": 0.0,
		"incarnation": 0,
		"frame": 0,
		"is_safe": false,
		"message": "",
	}


## The object of the property [member store].
func get_store() -> RefCounted:
	if _native != null:
		return _native.call(&"get_store")
	if _store == null:
		_store = StubStore.new()
	return _store


## Says that the server has loaded and serves.
func mark_ready() -> void:
	if _native != null:
		_native.call(&"mark_ready")


## Announces that the main loop will stand still for up to [param seconds].
func expect_stall(seconds: float) -> void:
	if _native != null:
		_native.call(&"expect_stall", seconds)


## Whether a watchdog launched this server.
func is_supervised() -> bool:
	return _native != null and _native.call(&"is_supervised")


## Whether the watchdog launched this server because the one before had died.
func is_relaunch() -> bool:
	return _native != null and _native.call(&"is_relaunch")


## How the server process before this one died; empty if it did not.
func get_last_death() -> Dictionary:
	return _native.call(&"get_last_death") if _native != null else {}


## Whether the watchdog asks for a careful start.
func is_safe_start() -> bool:
	return _native != null and _native.call(&"is_safe_start")


## Says whether a restart would disturb nobody.
func set_idle(idle: bool) -> void:
	if _native != null:
		_native.call(&"set_idle", idle)


## Asks for a restart as soon as the server is idle.
func restart_when_idle() -> void:
	if _native != null:
		_native.call(&"restart_when_idle")


## Whether this server waits to take another's place.
func is_standby() -> bool:
	return _native != null and _native.call(&"is_standby")


## To be awaited before the server binds its port: returns at once, but in a standby.
func when_active() -> Variant:
	return _native.call(&"when_active") if _native != null else null


## The number of this server process in its watchdog's count; 0 without a watchdog.
func get_incarnation() -> int:
	return _native.call(&"get_incarnation") if _native != null else 0


## Numbers for a status line.
func get_stats() -> Dictionary:
	if _native != null:
		return _native.call(&"get_stats")
	return {
		"mode": "unsupervised",
		"source": "",
		"epoch": "",
		"recorded": _recorded,
		"refused": 0,
		"committed": 0,
		"uploaded": 0,
		"backlog": 0,
		"ring_used": 0,
	}


## As the native singleton does when nobody listens; it cannot see that, since this script listens in any case.
func _on_quit_requested(grace_seconds: float) -> void:
	var is_heard: bool = not quit_requested.get_connections().is_empty()
	quit_requested.emit(grace_seconds)
	if not is_heard and get_tree().auto_accept_quit:
		get_tree().quit.call_deferred()


func _complete_flushes() -> void:
	var due: Array[Flush] = _flushes
	_flushes = []
	for waiting: Flush in due:
		waiting.completed.emit(false)


class Flush:
	extends RefCounted

	signal completed(ok: bool)


## The members of [code]SidekickRequest[/code]; completes with [code]unsupervised[/code].
class StubRequest:
	extends RefCounted

	signal completed(result: Dictionary)

	var _result: Dictionary = {}

	func _init() -> void:
		_complete.call_deferred(self)

	func wait() -> Variant:
		return completed if _result.is_empty() else _result

	func is_done() -> bool:
		return not _result.is_empty()

	func get_result() -> Dictionary:
		return _result

	## Holds itself until then.
	func _complete(_self: RefCounted) -> void:
		_result = StubStore.unsupervised()
		completed.emit(_result)


## The members of [code]SidekickWatch[/code]; fails with [code]unsupervised[/code].
class StubWatch:
	extends RefCounted

	signal changed(event: Dictionary)
	signal failed(result: Dictionary)

	var _is_active: bool = true

	func _init() -> void:
		_fail.call_deferred(self)

	func stop() -> void:
		_is_active = false

	func is_active() -> bool:
		return _is_active

	func _fail(_self: RefCounted) -> void:
		if _is_active:
			_is_active = false
			failed.emit(StubStore.unsupervised())


## The members of [code]SidekickStore[/code] where nobody keeps anything.
class StubStore:
	extends RefCounted

	func put(_path: String, _value: Variant, _options: Dictionary = {}) -> StubRequest:
		return StubRequest.new()

	func get_value(_path: String, default: Variant = null, _timeout_s: float = 1.0) -> Variant:
		return default

	func fetch(_path: String, _options: Dictionary = {}) -> StubRequest:
		return StubRequest.new()

	func delete(_path: String, _options: Dictionary = {}) -> StubRequest:
		return StubRequest.new()

	func list(_pattern: String, _options: Dictionary = {}) -> StubRequest:
		return StubRequest.new()

	func count(_pattern: String, _options: Dictionary = {}) -> StubRequest:
		return StubRequest.new()

	func transaction(
		_compare: Dictionary, _then: Array, _otherwise: Array = [], _timeout_s: float = 5.0
	) -> StubRequest:
		return StubRequest.new()

	func lease(_path: String, _seconds: float) -> StubRequest:
		return StubRequest.new()

	func renew_lease(_lease: Dictionary) -> StubRequest:
		return StubRequest.new()

	func release_lease(_lease: Dictionary) -> StubRequest:
		return StubRequest.new()

	func watch(_pattern: String, _from_revision: int = -1) -> StubWatch:
		return StubWatch.new()

	static func unsupervised() -> Dictionary:
		return {
			"ok": false,
			"error": "unsupervised",
			"message": "there is no watchdog",
			"version": 0,
			"value": null,
			"revision": 0,
			"count": 0,
			"succeeded": false,
			"nodes": [],
			"deleted": [],
			"deleted_cut": false,
			"next": "",
		}
