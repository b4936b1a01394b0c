"""State passed by reference: a tuple of arrays as one pointer, its arrays as a bare address and a length.

numba passes a tuple of arrays as seven words an array, copied at every call, and counts a reference up and down, atomically,
each time one is taken out. On the line that cost ten times the work itself. `borrow` turns the tuple that Python handed in into
a pointer: `state.positions[k]` then reads one address and steps to the record. The arrays stay owned by the caller, for the
whole call; kernels write the same code for either form. With NUMBA_BOUNDSCHECK every index is checked as in numba's arrays.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir

from transport.compiled import cgutils, config, extending, intrinsic, types


class Borrowed(types.Type):
    """A named tuple of arrays and borrowed tuples, by address."""

    def __init__(self, of: Any) -> None:
        self.of = of
        super().__init__(name=f"Borrowed({of.name})")


class Rows(types.Type):
    """A borrowed array: address of the first item, and how many; of two dimensions, its rows one behind the other."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(name=f"Rows({dtype.name})")


extending.register_model(Borrowed)(extending.models.OpaqueModel)


@extending.register_model(Rows)
class _RowsModel(extending.models.StructModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Rows) -> None:
        super().__init__(manager, kind, [("data", types.CPointer(kind.dtype)), ("count", types.intp)])


@extending.infer_getattr
class _BorrowedAttributes(extending.AttributeTemplate):  # type: ignore[misc]
    key = Borrowed

    def generic_resolve(self, kind: Borrowed, name: str) -> Any:
        if name not in kind.of.fields:
            return None
        inner = kind.of.types[kind.of.fields.index(name)]
        if isinstance(inner, types.BaseTuple):
            return Borrowed(inner)
        if isinstance(inner, types.Array):
            assert inner.layout == "C", f"{name} must be a contiguous array"
            return Rows(inner.dtype)
        return inner


@extending.lower_getattr_generic(Borrowed)
def _lower_attribute(context: Any, builder: Any, kind: Borrowed, value: Any, name: str) -> Any:
    index = kind.of.fields.index(name)
    inner = kind.of.types[index]
    whole = builder.bitcast(value, context.get_value_type(kind.of).as_pointer())
    place = cgutils.gep_inbounds(builder, whole, 0, index)
    if isinstance(inner, types.BaseTuple):
        return builder.bitcast(place, ir.IntType(8).as_pointer())
    if not isinstance(inner, types.Array):
        return builder.load(place)
    array = context.make_array(inner)(context, builder, ref=place)
    rows = cgutils.create_struct_proxy(Rows(inner.dtype))(context, builder)
    rows.data = array.data
    rows.count = array.nitems
    return rows._getvalue()


@intrinsic  # type: ignore[untyped-decorator]
def borrow(typingctx: Any, arrays: Any) -> Any:
    """The (named) tuple of arrays by reference, valid while the calling kernel runs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = cgutils.alloca_once_value(builder, args[0])
        return builder.bitcast(place, ir.IntType(8).as_pointer())

    return Borrowed(arrays)(arrays), codegen


def _item(context: Any, builder: Any, kind: Rows, value: Any, index: Any) -> Any:
    rows = cgutils.create_struct_proxy(kind)(context, builder, value)
    if config.BOUNDSCHECK:
        cgutils.do_boundscheck(context, builder, index, rows.count)
    return builder.gep(rows.data, [index])


@intrinsic  # type: ignore[untyped-decorator]
def _get(typingctx: Any, rows: Any, index: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = _item(context, builder, signature.args[0], args[0], args[1])
        model = context.data_model_manager[signature.return_type]
        return model.load_from_data_pointer(builder, place)

    return rows.dtype(rows, types.intp), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _set(typingctx: Any, rows: Any, index: Any, value: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        place = _item(context, builder, kind, args[0], args[1])
        if isinstance(kind.dtype, types.Record):
            size = ir.Constant(ir.IntType(64), kind.dtype.size)
            cgutils.raw_memcpy(builder, place, builder.bitcast(args[2], place.type), size, 1, align=8)
        else:
            context.pack_value(builder, kind.dtype, args[2], place)
        return context.get_dummy_value()

    return types.none(rows, types.intp, rows.dtype), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _count(typingctx: Any, rows: Any) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(signature.args[0])(context, builder, args[0]).count

    return types.intp(rows), codegen


@extending.overload(operator.getitem)
def _getitem(rows, index):  # type: ignore[no-untyped-def]  # numba compares the arguments
    if isinstance(rows, Rows) and isinstance(index, types.Integer):
        return lambda rows, index: _get(rows, index)
    return None


@extending.overload(operator.setitem)
def _setitem(rows, index, value):  # type: ignore[no-untyped-def]  # numba compares the arguments
    if isinstance(rows, Rows) and isinstance(index, types.Integer):
        return lambda rows, index, value: _set(rows, index, value)
    return None


@extending.overload(len)
def _len(rows):  # type: ignore[no-untyped-def]  # numba compares the arguments
    if isinstance(rows, Rows):
        return lambda rows: _count(rows)
    return None
