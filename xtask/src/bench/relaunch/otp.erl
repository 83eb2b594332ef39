%% A supervisor with one worker, which owns the port to the program and ends when that does.
-module(bench).
-export([start/0, start_worker/0, init/1, handle_call/3, handle_cast/2, handle_info/2]).

start() ->
    {ok, _} = supervisor:start_link(?MODULE, supervisor),
    receive stop -> ok end.

start_worker() -> gen_server:start_link(?MODULE, worker, []).

init(supervisor) ->
    Worker = #{id => worker, start => {?MODULE, start_worker, []}, restart => permanent},
    {ok, {#{strategy => one_for_one, intensity => 1000, period => 5}, [Worker]}};
init(worker) ->
    {ok, open_port({spawn, "{PROGRAM}"}, [exit_status])}.

handle_call(_, _, Port) -> {reply, ok, Port}.
handle_cast(_, Port) -> {noreply, Port}.
handle_info({Port, {exit_status, _}}, Port) -> {stop, program_ended, Port};
handle_info(_, Port) -> {noreply, Port}.
