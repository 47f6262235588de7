"""The app: what tasks are declared on, sent through and looked up in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Never, TypeVar, Unpack, cast

import msgspec

from engine.app import codecs, registry, routing
from engine.app.absent import AROUND, OF_THE_APP, answers, refuse_keywords
from engine.app.calls import arguments, check_call
from engine.app.client import Client
from engine.app.config.values import Value, convert
from engine.app.decorator import Declares, check_free, declare, make_of_class
from engine.app.eager import Watch, run_eagerly
from engine.app.nearest import did_you_mean
from engine.app.options import SECTION_NAMES, CallOptions, Defaults, DurationLike, Resolved, section_of
from engine.app.results import AsyncResult, EagerResult
from engine.app.revocation import revoke
from engine.app.run import Run
from engine.app.sending import Route, message_of, publish
from engine.app.settings import EngineSection, Settings, TaskSection
from engine.app.signature import Signature
from engine.app.task import Task as AnyTask
from engine.app.task_modules import Modules, Packages
from engine.app.wire import TaskInfo
from engine.contract.results import ResultBackend
from engine.contract.transport import Transport
from engine.errors import NotRegistered

if TYPE_CHECKING:
    from engine.app.conf import Conf
    from engine.app.coroutines import Loop

Hook = TypeVar("Hook", bound=Callable[[], Any])
ClassTask = TypeVar("ClassTask", bound=AnyTask[..., Any])


@answers(OF_THE_APP)
class Engine:
    """An app: declares tasks, sends them, and finds them in a worker.

    ``broker`` and ``backend`` are URLs; without a broker the file that ENGINE_CONFIG names is read, else
    ENGINE_BROKER_URL. ``include`` are modules with tasks, which a worker imports. ``defaults`` are options of its
    tasks, weaker than all other places. What the operator sets - file, environment, command line - is stronger than
    what is set here. Safe to use from several threads, and on both sides of a fork.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] = (),
        routes: Mapping[str, str] | None = None,
        result_expires: DurationLike | None = None,
        task_always_eager: bool = False,
        task_eager_propagates: bool = False,
        **defaults: Unpack[Defaults],
    ) -> None:
        code = code_settings(
            "Engine", name=name, broker=broker, backend=backend, routes=routes, result_expires=result_expires
        )
        self._give("Engine", code, defaults)
        self.name = self._code.engine.name
        self.task_always_eager = task_always_eager
        """True: ``apply_async`` runs the task here and now, as ``apply`` does."""
        self.task_eager_propagates = task_eager_propagates
        """True: ``apply_async`` under ``task_always_eager`` raises what the task ended with."""
        self.eager_watch: Watch | None = None
        """Who watches eager runs. For tests: see `engine.testing`."""
        self.around: Callable[[Callable[[], Any]], Any] | None = None
        """Calls, in a worker, what runs a task, and returns what that returns. For what every task needs around it;
        limits and interruptions may be raised in it."""
        self.client = Client(lambda: self.settings)
        self._modules = Modules(include)
        self._settings: Settings | None = None
        self._own = registry.TaskTable()
        self._routes: dict[str, Route] = {}
        self._start_hooks: list[Callable[[], Any]] = []
        self._stop_hooks: list[Callable[[], Any]] = []
        self._loop: Loop | None = None
        self.task = cast(Declares, self._task)
        registry.add(self)

    def _give(self, where: str, code: Settings, defaults: Mapping[str, Any]) -> None:
        """Takes what the code says of settings and of options of its tasks, the weakest of all places. Errors name
        ``where``."""
        for option in defaults.keys() - SECTION_NAMES:
            from engine.app.conf import of_an_argument  # late: see `conf`

            raise TypeError(f'{where}: unknown option "{option}"{of_an_argument(option, defaults[option])}')
        self._defaults = section_of(defaults, where)
        self._code = code

    @property
    def given(self) -> Settings:
        """What the code gave, before any configuration: URLs, expiry of results, routes and defaults of tasks. The name
        is left out: that of an engine on its host is the operator's."""
        copied = msgspec.structs.replace
        return copied(self._code, engine=EngineSection(), tasks=copied(self._defaults))

    @classmethod
    def from_toml(cls, path: str) -> Engine:
        """Makes an app with the settings of a TOML file (and of the environment). Raises ConfigError."""
        from engine.app.config.loader import load  # late: reading TOML takes 10 ms of every import

        settings = load(path).settings
        app = cls(settings.engine.name)
        app.configure(settings)
        return app

    @property
    def Task(self) -> type[AnyTask[..., Any]]:  # noqa: N802 - the name Celery users know
        """What to derive ``base=`` classes from. It cannot be set: raises AttributeError that says what to write."""
        return AnyTask

    @Task.setter
    def Task(self, kind: object) -> None:  # noqa: N802 - as above
        raise AttributeError(f"app.Task cannot be set: {AROUND}")

    # Declaring.

    def _task(self, function: Any = None, /, **options: Any) -> Any:
        """Makes a task of a function: ``@app.task`` or ``@app.task(option=...)``. Raises TypeError for an unknown
        option, ConfigError for a value that does not fit or a name that another function has."""
        return declare(function, options, self, self._add)

    def register_task(self, task: ClassTask | type[ClassTask]) -> ClassTask:
        """Makes a task of a class that has a method ``run``, or of an instance of one: its attributes are the options,
        and ``name`` is module and class unless it says otherwise. Raises as ``@app.task``, and TypeError for a class
        without ``run``."""
        made = make_of_class(task, self)
        self._add(made)
        return cast(ClassTask, made)

    def _add(self, task: AnyTask[..., Any]) -> None:
        check_free(task, self.find)
        self._own.add(task)

    def on_child_start(self, hook: Hook) -> Hook:
        """Has a function called in each child before its first task. One that raises is a boot failure."""
        self._start_hooks.append(hook)
        return hook

    def on_child_stop(self, hook: Hook) -> Hook:
        """Has a function called in each child after its last task."""
        self._stop_hooks.append(hook)
        return hook

    def autodiscover_tasks(
        self, packages: Packages = None, related_name: str | None = "tasks", force: bool = False
    ) -> None:
        """Names packages whose module ``tasks`` a worker imports: a list, or a function that returns one; without any,
        Django's apps. A package that has no such module is passed over. ``force`` is taken and means nothing."""
        self._modules.discover(packages, related_name)

    @functools.cached_property
    def conf(self) -> Conf:
        """The settings under the names that Celery users know."""
        from engine.app.conf import Conf  # late: what it knows of Celery is 0.2 MiB that a worker does not need

        return Conf(self)

    def config_from_object(
        self, given: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> None:
        """Reads the settings of a Celery project: a module, an object or a dict, or the path of one. Raises one
        ConfigError that says for each of them what to write in the TOML file. ``task_always_eager`` and
        ``task_eager_propagates`` may stay. ``silent`` and ``force`` are taken and mean nothing."""
        from engine.app.conf import take_from_object  # late: see `conf`

        take_from_object(self.conf, given, namespace)

    def set_current(self) -> None:
        """Makes this the app that shared tasks bind to."""
        registry.set_current(self)

    # Looking up.

    @property
    def tasks(self) -> Mapping[str, AnyTask[..., Any]]:
        """All tasks by name, shared ones included."""
        return MappingProxyType({**registry.shared().by_name, **self._own.by_name})

    def find(self, name: str) -> AnyTask[..., Any] | None:
        """Returns the task of that name or alias, or None."""
        return self._own.by_any_name.get(name) or registry.shared().by_any_name.get(name)

    def registered(self, name: str) -> AnyTask[..., Any]:
        """Returns the task of that name or alias. Raises NotRegistered."""
        task = self.find(name)
        if task is None:
            known = {*registry.shared().by_any_name, *self._own.by_any_name}
            raise NotRegistered(f"no task is called {name!r} here{did_you_mean(name, known)}")
        return task

    # Sending.

    def send_task(
        self,
        name: str,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Sends a task by its name, which need not be registered here. Options and errors as `Task.apply_async`."""
        check_call(options, "send_task")
        positional, named = arguments(args, kwargs, "send_task")
        task = self.find(name)
        if task is not None:
            return self.send_task_object(task, positional, named, options)
        return self._send(self.route_to(name), positional, named, options)

    def send_many(self, signatures: Iterable[Signature[Any]]) -> list[AsyncResult[Any]]:
        """Sends signatures, some hundred in a round trip; returns a result for each, in order. When sending fails part
        of the way, those before have been sent."""
        results, messages = [], []
        for signature in signatures:
            if self.task_always_eager:
                results.append(self.send_signature(signature, signature.options))
                continue
            task = self.find(signature.task)
            route = self.route_to(signature.task)
            if task is not None and task.code.typing:
                task.check(signature.args, signature.kwargs)
            messages.append((message_of(route, signature.args, signature.kwargs, signature.options, task), route))
            results.append(self._result(messages[-1][0].id, task, signature.options, route))
        publish(self.client, messages, {})
        return results

    def send_signature(self, signature: Signature[Any], options: Mapping[str, Any]) -> AsyncResult[Any]:
        """Sends a signature with these options instead of its own."""
        return self.send_task(signature.task, signature.args, signature.kwargs, **cast(CallOptions, dict(options)))

    def send_task_object(
        self, task: AnyTask[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> AsyncResult[Any]:
        """Sends a task. For `Task`, which checks the names of the options."""
        if task.code.typing:
            task.check(args, kwargs)
        if self.task_always_eager:
            return self.apply(task, args, kwargs, options, self.task_eager_propagates)
        return self._send(task.route, args, kwargs, options, task)

    def apply(
        self,
        task: AnyTask[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        throw: bool,
    ) -> EagerResult[Any]:
        """Runs a task here and now. For `Task`."""
        if task.code.typing:
            task.check(args, kwargs)
        result = run_eagerly(self, task, message_of(task.route, args, kwargs, options, task))
        if throw:
            result.get()
        return result

    def signature(
        self,
        name: str,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        immutable: bool = False,
        **options: Unpack[CallOptions],
    ) -> Signature[Any]:
        """Returns a signature of a task by its name, which need not be registered here."""
        return Signature(self, name, args, kwargs, options, immutable)

    def revoke(self, ids: str | Sequence[str], terminate: bool = False, **gone: Never) -> None:
        """Sees to it that tasks do not run (again): one id, or several. ``terminate`` interrupts those that run now.
        Raises BrokerUnavailable, and TransportError where the broker cannot record it."""
        refuse_keywords(gone, "revoke")
        revoke(self.client, [ids] if isinstance(ids, str) else list(ids), terminate, self.settings.results.expires)

    def close(self) -> None:
        """Closes the connections. The next use opens them again."""
        self.client.close()

    def _send(
        self,
        route: Route,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        task: AnyTask[..., Any] | None = None,
    ) -> AsyncResult[Any]:
        message = message_of(route, args, kwargs, options, task)
        publish(self.client, [(message, route)], options)
        return self._result(message.id, task, options, route)

    def _result(
        self, id: str, task: AnyTask[..., Any] | None, options: Mapping[str, Any], route: Route
    ) -> AsyncResult[Any]:
        ignored = options.get("ignore_result")
        convert_result = None if task is None else task.parameters.convert_result
        return AsyncResult(id, self, convert_result, route.ignore_result if ignored is None else bool(ignored))

    # For the worker.

    @property
    def settings(self) -> Settings:
        """All settings. Read at the first use: what the code gave, ENGINE_CONFIG, ENGINE_*. Raises ConfigError."""
        if self._settings is None:
            from engine.app.config.loader import load  # late: reading TOML takes 10 ms of every import

            self._take(load(code=self._code).settings)
        assert self._settings is not None
        return self._settings

    def configure(self, settings: Settings) -> None:
        """Takes the operator's settings: they win over what the code gave. Makes this the current app."""
        code, copied = self._code, msgspec.structs.replace
        self._take(
            copied(
                settings,
                broker=copied(settings.broker, url=settings.broker.url or code.broker.url),
                results=copied(settings.results, url=settings.results.url or code.results.url),
                # The operator's twice: their patterns come first, as the first that fits wins, and keep their queues.
                routes={**settings.routes, **code.routes, **settings.routes},
            )
        )
        self.client.close()
        self.set_current()

    def _take(self, settings: Settings) -> None:
        self._settings = settings
        self._routes.clear()
        if settings.plugins.enable or settings.plugins.load:
            from engine.app import plugins  # late: finding plugins takes 15 ms of every import

            codecs.register(plugins.codecs(settings.plugins))
        self._forget_options()

    def _forget_options(self) -> None:
        for task in self.tasks.values():
            task.forget_options()

    def connect_with(self, transport: Transport, results: ResultBackend | None) -> None:
        """From now on reaches broker and result backend through these. Called in a child."""
        self.client.use(transport, results)

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Lends the app to a test, with connections of its own: in the end settings, connections and the current app
        are what they were."""
        kept = dict(vars(self))
        self.client = Client(lambda: self.settings)
        self._routes = {}
        with registry.current_kept():
            try:
                yield
            finally:
                self.client.close()
                vars(self).update(kept)
                self._forget_options()

    def import_tasks(self) -> list[str]:
        """Imports ``include`` and what ``autodiscover_tasks`` finds; returns the modules' names. Called before a worker
        starts; raises what a module raises."""
        return self._modules.import_all()

    def task_infos(self) -> list[TaskInfo]:
        """Returns what the dispatcher needs to know of each task, by name: the place in the list is the task's number
        on the board."""
        tasks = self.tasks
        return [tasks[name].info for name in sorted(tasks)]

    def child_start(self) -> None:
        """Runs the ``on_child_start`` hooks; raises what they raise."""
        for hook in self._start_hooks:
            hook()

    def child_stop(self) -> None:
        """Runs all ``on_child_stop`` hooks and ends the event loop; then raises the first exception of a hook."""
        errors: list[Exception] = []
        for hook in self._stop_hooks:
            try:
                hook()
            except Exception as error:  # noqa: BLE001 - the other hooks have their own things to close
                errors.append(error)
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        if errors:
            raise errors[0]

    def run_coroutine(self, function: Callable[..., Coroutine[Any, Any, Any]], run: Run, args: Any, kwargs: Any) -> Any:
        """Runs an ``async def`` function to its end: in the event loop of this child, or in one for an eager run."""
        from engine.app.coroutines import Loop  # late: asyncio takes 30 ms, and most apps have no such task

        if run.is_eager:
            return Loop.once(function, run, args, kwargs)
        if self._loop is None:
            self._loop = Loop()
        return self._loop.run(function, run, args, kwargs)

    def resolve(self, name: str, own: TaskSection | None) -> Resolved:
        """Returns the options that hold for a task; ``own`` are the decorator's."""
        return routing.options_of(self.settings, name, own, self._defaults)

    def route(self, name: str, own: TaskSection | None) -> Route:
        """Returns where and how a task is sent when the call does not say."""
        if own is None and name in self._routes:
            return self._routes[name]
        route = routing.route_of(self.settings, name, self.resolve(name, own), own)
        if own is None:
            self._routes[name] = route
        return route

    def route_to(self, name: str) -> Route:
        """Returns where and how a task of that name or alias is sent, whether it is registered here or not."""
        task = self.find(name)
        return self.route(name, None) if task is None else task.route

    # Last, as the name stands for the class above.
    def AsyncResult(self, id: str) -> AsyncResult[Any]:  # noqa: N802 - the name Celery users know
        """Returns the handle of the result that has this id."""
        return AsyncResult(id, self)

    def __repr__(self) -> str:
        return f"<Engine {self.name}>"


def code_settings(
    where: str,
    *,
    name: str | None,
    broker: str | None,
    backend: str | None,
    routes: Mapping[str, str] | None,
    result_expires: DurationLike | None,
) -> Settings:
    """Returns the settings that arguments of ``Engine(...)`` are. Raises ConfigError that names ``where``."""
    settings = Settings()
    if name is not None:
        settings.engine.name = name
    settings.broker.url = broker
    settings.results.url = backend
    settings.routes = dict(routes or {})
    if result_expires is not None:
        settings.results.expires = convert(
            Value(("results", "expires"), result_expires, f"{where}: result_expires", "code")
        )
    return settings
