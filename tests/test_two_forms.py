"""What is in two forms, a class of C and one of Python, is the same to a program in both."""

from __future__ import annotations

import copy
import gc
import inspect
import itertools
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import support

import unio
from unio import completion, operation_state
from unio.backends.common import accelerator

core: Any = accelerator.core
needs_c = pytest.mark.skipif(core is None, reason="unio._core was not compiled, so that there is but one form")

STATES = [
    "OperationState",
    "BufferedState",
    "RecvState",
    "SendState",
    "RecvFromState",
    "SendToState",
    "PollState",
    "AcceptState",
]


def public(class_: type) -> set[str]:
    return {name for name in vars(class_) if not name.startswith("_")}


def shape_of(class_: type) -> list[tuple[str, object, object]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(class_).parameters.values()]


@needs_c
@pytest.mark.parametrize("name", STATES)
def test_both_forms_of_what_an_operation_keeps_have_the_same_attributes_and_words(name: str) -> None:
    in_c, in_python = getattr(core, name), getattr(operation_state, name)
    assert public(in_c) == public(in_python)
    private = {name for name in vars(in_python) if name.startswith("_") and not name.startswith("__")}
    assert private <= set(vars(in_c))
    assert inspect.getdoc(in_c) == inspect.getdoc(in_python)
    if "__init__" in vars(in_python):
        assert shape_of(in_c) == shape_of(in_python)
    for attribute in public(in_c):
        property_ = inspect.getattr_static(in_python, attribute)
        if isinstance(property_, property):
            assert inspect.getdoc(inspect.getattr_static(in_c, attribute)) == inspect.getdoc(property_)


@needs_c
def test_both_forms_of_a_completion_have_the_same_attributes_and_words() -> None:
    in_c, in_python = core.Completion, completion.Completion
    assert public(in_c) == public(in_python)
    for name in ("__module__", "__qualname__", "__match_args__", "_fields", "_field_defaults"):
        assert getattr(in_c, name) == getattr(in_python, name)
    assert inspect.getdoc(in_c) == inspect.getdoc(in_python)
    for name in (*in_c._fields, "_make", "_asdict", "_replace"):
        assert inspect.getdoc(getattr(in_c, name)) == inspect.getdoc(getattr(in_python, name))
    assert list(inspect.signature(in_c).parameters) == list(inspect.signature(in_python).parameters)


@needs_c
def test_c_and_python_have_the_same_numbers_for_where_an_operation_is() -> None:
    for name in ("IDLE", "PENDING", "QUEUED"):
        assert getattr(core, name) == getattr(operation_state, name)


FORMS = [completion.Completion, *([] if core is None else [core.Completion])]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: type(form.key).__name__)


@every_form
def test_a_completion_is_made_of_its_four_fields_in_order_or_by_name(form: Any) -> None:
    error = OSError(1, "one")
    made = form("key", "operation", 7, error)
    assert made == ("key", "operation", 7, error)
    assert made == form(error=error, transferred=7, key="key", operation="operation")
    assert made == form._make(iter(made))
    assert (made.key, made.operation, made.transferred, made.error) == tuple(made)
    assert hash(made) == hash(tuple(made))
    assert made < ("key", "operation", 8)
    assert isinstance(made, tuple)
    match made:
        case form(key, operation, transferred=count):
            assert (key, operation, count) == ("key", "operation", 7)
        case _:
            pytest.fail("it is one of these")


@every_form
@pytest.mark.parametrize("wrong", [(), ("key",), tuple(range(5))])
def test_a_completion_of_more_or_fewer_fields_is_refused(form: Any, wrong: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        form(*wrong)
    with pytest.raises(TypeError, match=f"Expected 4 arguments, got {len(wrong)}"):
        form._make(wrong)
    with pytest.raises(TypeError):
        form("key", "operation", 7, None, extra=None)


@every_form
def test_a_completion_can_be_shown_taken_apart_and_changed_like_a_named_tuple(form: Any) -> None:
    made = form("key", 2, 3, None)
    assert repr(made) == "Completion(key='key', operation=2, transferred=3, error=None)"
    assert made._asdict() == {"key": "key", "operation": 2, "transferred": 3, "error": None}
    assert made._replace(transferred=4, key=None) == (None, 2, 4, None)
    assert type(made._replace()) is form
    with pytest.raises((TypeError, ValueError), match=r"Got unexpected field names: \['other'\]"):
        made._replace(other=1, key=2)
    with pytest.raises(AttributeError):
        made.key = 1
    with pytest.raises(AttributeError):
        made.other = 1
    if hasattr(copy, "replace"):
        assert copy.replace(made, error=5) == ("key", 2, 3, 5)


class Tally(unio.Completion):
    """A completion with something of the program's own."""

    note: str

    @property
    def doubled(self) -> int:
        return 2 * self.transferred


class Slotted(unio.Completion):
    """One without a dict."""

    __slots__ = ()


@pytest.mark.parametrize("class_", [unio.Completion, Tally, Slotted])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_completion_can_be_pickled_and_copied(class_: Any, protocol: int) -> None:
    made = class_(("key",), [1], 3, OSError(2, "two"))
    if class_ is Tally:
        made.note = "noted"
    for again in (pickle.loads(pickle.dumps(made, protocol)), copy.copy(made), copy.deepcopy(made)):
        assert type(again) is class_
        assert again[:3] == made[:3]
        assert str(again.error) == str(made.error)
        assert getattr(again, "note", None) == getattr(made, "note", None)


@needs_c
def test_nothing_makes_a_completion_of_another_size_in_c() -> None:
    class Short(tuple[object, ...]):
        __slots__ = ()

    class Noted(tuple[object, ...]):  # noqa: SLOT001 - as with a dict it has another layout
        pass

    for class_ in (unio.Completion, Tally, Slotted):
        with pytest.raises(TypeError):
            tuple.__new__(class_, ["one"])
        for short in (Short(["one"]), Noted(["one"])):
            with pytest.raises(TypeError):
                short.__class__ = class_  # type: ignore[assignment]


@every_form
def test_a_cycle_through_a_completion_is_collected(form: Any) -> None:
    class Key:
        pass

    key: Any = Key()
    gone = weakref.ref(key)
    key.completion = form(key, None, 0, None)
    del key
    gc.collect()
    assert gone() is None


# Operations


class Mixin:
    """What has nothing to do with operations."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.mixed = True


class Mixed(Mixin, unio.Recv):
    """A receive with it."""


class Later(unio.Recv, Mixin):
    """A receive that comes first."""


class Counted(unio.Send):
    """One with a slot and an __init__ of its own."""

    __slots__ = ("count",)

    def __init__(self, handle: unio.Handle, count: int) -> None:
        super().__init__(handle, bytes(count))
        self.count = count


class Hooked(unio.Recv):
    """One with a public attribute of its own in the place of unio's."""

    keys: ClassVar[list[object]] = []

    @property
    def key(self) -> object:
        return "its own"

    @key.setter
    def key(self, key: object) -> None:
        self.keys.append(key)


@pytest.mark.clause("S7")
@pytest.mark.parametrize("class_", [Mixed, Later])
def test_an_operation_can_have_other_bases(port: unio.Port, make_pair: Any, class_: Any) -> None:
    near, far = make_pair()
    operation = class_(port.associate(near, "key"), bytearray(8))
    assert getattr(operation, "mixed", None) is (True if class_ is Mixed else None)
    port.submit(operation)
    far.send(b"data")
    assert support.completion(port) == ("key", operation, 4, None)
    assert operation.data == b"data"
    assert weakref.ref(operation)() is operation


@pytest.mark.clause("S7")
def test_an_operation_can_have_slots_and_arguments_of_its_own(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = Counted(port.associate(near), 5)
    support.succeed(port, operation)
    assert (operation.count, support.recv_exactly(far, 5)) == (5, bytes(5))
    assert not hasattr(operation, "__dict__")
    with pytest.raises(AttributeError):
        operation.other = 1  # type: ignore[attr-defined]


@pytest.mark.clause("S7")
def test_an_operation_may_have_a_property_in_the_place_of_one_of_unios(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = Hooked(port.associate(near), bytearray(8))
    port.submit(operation)
    far.send(b"data")
    assert support.completion(port).operation is operation
    assert operation.key == "its own"
    operation.key = 4
    assert Hooked.keys.pop() == 4


class Watched(unio.Send):
    """One that sees each buffer that it is given."""

    seen: ClassVar[list[object]] = []

    @property
    def buffer(self) -> Any:
        return super().buffer

    @buffer.setter
    def buffer(self, buffer: Any) -> None:
        self.seen.append(buffer)
        unio.Send.buffer.__set__(self, buffer)  # type: ignore[attr-defined]


@pytest.mark.clause("S7")
def test_an_operation_with_a_buffer_of_its_programs_making_has_it_set_from_the_first_on(
    port: unio.Port, make_pair: Any
) -> None:
    near, far = make_pair()
    send = Watched(port.associate(near), b"first")
    assert Watched.seen == [b"first"]
    Watched.seen.clear()
    succeed = support.succeed(port, send)
    assert (succeed.transferred, support.recv_exactly(far, 5)) == (5, b"first")


@pytest.mark.clause("S3", "S7")
def test_receives_and_sends_are_made_of_their_arguments_in_order_or_by_name(
    port: unio.Port, make_pair: Any, tmp_path: Path
) -> None:
    near, _far = make_pair()
    handle, buffer, state = port.associate(near, "key"), bytearray(8), object()
    file = unio.open(tmp_path / "file", "w+b")
    of_file = port.associate(file)
    recv: Any = unio.Recv
    send: Any = unio.Send
    for class_ in (recv, send):
        assert list(inspect.signature(class_).parameters) == ["handle", "buffer", "state"]
        for made in (
            class_(handle, buffer, state=state),
            class_(handle, buffer=buffer, state=state),
            class_(buffer=buffer, handle=handle, state=state),
        ):
            assert (made.handle, made.key, made.state) == (handle, "key", state)
            assert made.buffer is buffer
            assert (made.transferred, made.error, made.in_flight) == (0, None, False)
        assert class_(handle, buffer).state is None
        for arguments, keywords in (
            ((), {}),
            ((handle, buffer, state), {}),
            ((handle, buffer), {"other": 1}),
            ((handle, buffer), {"buffer": buffer}),
            ((near, buffer), {}),
            ((None, buffer), {"state": state}),
            ((of_file, buffer), {}),
            ((handle, "text"), {}),
        ):
            with pytest.raises(TypeError):
                class_(*arguments, **keywords)
    with pytest.raises(TypeError):
        send(handle)
    with pytest.raises(TypeError):
        send(handle, state=state)
    with pytest.raises(TypeError):
        send(handle, None)
    for made in (recv(handle), recv(handle, None), recv(handle, state=state), recv(handle, buffer=None)):
        assert (made.buffer, made.data) == (bytes(4096), b"")
    assert send(handle, b"").buffer == b""
    of_file.close()


@pytest.mark.clause("S3")
def test_an_operation_whose_class_has_not_called_init_can_not_be_submitted(port: unio.Port, make_pair: Any) -> None:
    class Bare(unio.Recv):
        def __init__(self) -> None:
            pass

    for name in ("handle", "key", "buffer"):
        with pytest.raises(AttributeError):
            getattr(Bare(), name)
    with pytest.raises(AttributeError):
        port.submit(Bare())
    near, far = make_pair()
    far.send(b"data")
    assert support.run(port, unio.Recv(port.associate(near), bytearray(8))).transferred == 4


@pytest.mark.clause("S3")
@pytest.mark.parametrize("name", ["handle", "key", "transferred", "error", "in_flight", "buffer", "data"])
def test_what_every_operation_has_can_not_be_deleted(port: unio.Port, make_pair: Any, name: str) -> None:
    operation = unio.Recv(port.associate(make_pair()[0], "key"), bytearray(8))
    before = getattr(operation, name)
    with pytest.raises(AttributeError):
        delattr(operation, name)
    assert getattr(operation, name) == before


@pytest.mark.clause("S7")
@pytest.mark.parametrize(
    "lead",
    [
        lambda operation: setattr(operation, "state", operation),
        lambda operation: setattr(operation, "key", [operation]),
        lambda operation: setattr(operation, "error", OSError(operation)),
        lambda operation: setattr(operation, "more", {1: operation}),
    ],
    ids=["state", "key", "error", "attribute"],
)
def test_a_cycle_through_an_operation_is_collected(
    port: unio.Port, make_pair: Any, lead: Callable[[Any], None]
) -> None:
    class Own(unio.Recv):
        more: Any

    class Buffer(bytearray):
        pass

    buffer = Buffer(8)
    operation = Own(port.associate(make_pair()[0]), buffer)
    lead(operation)
    gone, buffer_gone = weakref.ref(operation), weakref.ref(buffer)
    del operation, buffer
    gc.collect()
    assert (gone(), buffer_gone()) == (None, None)


@pytest.mark.clause("S7")
def test_a_weak_reference_to_an_operation_calls_back_once_it_is_gone(port: unio.Port, make_pair: Any) -> None:
    handle = port.associate(make_pair()[0])
    told: list[object] = []
    made: list[Any] = [unio.Timer(1), unio.Recv(handle), unio.Send(handle, b"x"), Counted(handle, 1)]
    references = [weakref.ref(each, told.append) for each in made]
    del made[:]
    gc.collect()
    assert {id(each) for each in told} == {id(each) for each in references}
    assert [reference() for reference in references] == [None] * 4


@pytest.mark.clause("S7")
def test_a_long_row_of_operations_is_dropped_however_deep() -> None:
    row = [unio.Timer(number) for number in range(100_000)]
    for first, second in itertools.pairwise(row):
        first.state = second
    last = weakref.ref(row[-1])
    first = row[0]
    del row, second
    assert last() is not None
    del first
    gc.collect()
    assert last() is None


def test_a_receive_that_is_filled_over_and_over_counts_each(port: unio.Port, make_pair: Any) -> None:
    near, far = make_pair()
    operation = unio.Recv(port.associate(near), bytearray(4000))
    for size in (1, 256, 257, 4000, 257):
        far.sendall(bytes(size))
        got = 0
        while got < size:
            got += support.succeed(port, operation).transferred
        assert got == size
    operation.transferred = 2**62
    assert operation.transferred == 2**62
    assert len(operation.data) == 4000
    with pytest.raises(ValueError, match="the number of bytes"):
        operation.transferred = 2**63
