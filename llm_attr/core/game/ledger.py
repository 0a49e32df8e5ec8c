"""The values of coalitions, in memory or in a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike

import torch

from llm_attr.core.game.coalitions import keys
from llm_attr.core.game.ledger_file import LedgerFile, Scope
from llm_attr.core.parallel.sharing import agreed
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions, Game, Values

_SHAPE, _VALUE = b"s", b"v"
"""The first byte of a key in the file: of the shape of the output, of a coalition's value."""


class Ledger:
    """Stores the value of every coalition of one game.

    Args:
        path: A file that keeps the values beyond this process. Any number of games, threads and processes may share it.
        name: The name of the model in the file. A forward function has no fingerprint, so whoever changes the model
            must give it another name; inputs, baselines, target and features are told apart.

    Attributes:
        asked: Number of coalitions requested so far.
        evaluated: Number of coalitions that the game evaluated.
        shape: Shape of the game's output for one coalition, if known.

    Raises:
        InvalidValue: one of path and name is given without the other.
        LlmAttrError: as in `LedgerFile`.

    Example:
        >>> ledger = Ledger()
        >>> values = ledger.remembering(lambda rows: rows.float())(torch.tensor([[True], [False], [True]]))
        >>> ledger.asked, ledger.evaluated
        (3, 2)
    """

    def __init__(self, path: str | PathLike[str] | None = None, name: str | None = None) -> None:
        if (path is None) != (name is None):
            raise InvalidValue(
                "a ledger in a file needs the path and a name of the model, which tells its values from those of other "
                f"models; got path={path!r}, name={name!r}"
            )
        self._file, self._name = None if path is None else LedgerFile(path), name
        self._values: dict[bytes, Values] = {}
        self._owner: object = None
        self._scope: Scope | None = None
        self._device: torch.device | None = None
        self._shape_of: Callable[[], torch.Size | None] = lambda: None
        self.shape: torch.Size | None = None
        self.asked = 0
        self.evaluated = 0

    def __len__(self) -> int:
        """The number of distinct coalitions stored."""
        return len(self._values)

    def claim(
        self,
        name: object,
        fingerprint: bytes = b"",
        device: torch.device | None = None,
        shape: Callable[[], torch.Size | None] = lambda: None,
    ) -> None:
        """Ties the ledger to the game with this name.

        Args:
            name: Differs between games of this process.
            fingerprint: Differs between games of this model in any process.
            device: Where values from the file go.
            shape: The shape of the game's output, once it is known.

        Raises:
            InvalidValue: it holds the values of another game.
        """
        if self._owner not in (None, name):
            raise InvalidValue(
                "this ledger holds the values of another game (other inputs, baselines, target, features or model); "
                "give each its own Ledger()"
            )
        self._owner, self._device, self._shape_of = name, device, shape
        if self._file is not None and self._scope is None:
            self._scope = Scope({"name": self._name, "game": fingerprint.hex()}, {"model": self._name})
            for stored in self._read([_SHAPE]).values():
                self.shape = torch.Size(json.loads(stored))

    @property
    def names(self) -> set[bytes]:
        """The keys of the stored coalitions, see `coalitions.keys`."""
        return set(self._values)

    def learn(self, coalitions: Coalitions, values: Values) -> None:
        """Stores the values of coalitions that were evaluated elsewhere."""
        self._values.update(zip(keys(coalitions), values.unbind(), strict=True))

    def remembering(self, game: Game) -> Game:
        """The same game, which evaluates only coalitions that are not in the ledger, each once."""

        def remembered(coalitions: Coalitions) -> Values:
            names = keys(coalitions)
            new = {name: i for i, name in reversed(list(enumerate(names))) if name not in self._values}
            self._recall(new)
            if new:
                rows = sorted(new.values())
                values = dict(zip((names[i] for i in rows), game(coalitions[rows]).unbind(), strict=True))
                self._keep(values)
                self._values.update(values)
            self.asked += len(names)
            self.evaluated += len(new)
            return torch.stack([self._values[name] for name in names])

        return remembered

    def _recall(self, new: dict[bytes, int]) -> None:
        """Takes what the file has of these coalitions, and removes it from those that are new."""
        for key, stored in self._read([_VALUE + name for name in new]).items():
            self._values[key[1:]] = _unpacked(stored).to(self._device)
            del new[key[1:]]

    def _keep(self, values: dict[bytes, Values]) -> None:
        """Adds values to the file, and the shape of the output that they are entries of."""
        if self._file is None or self._scope is None:
            return
        rows = {_VALUE + name: _packed(value) for name, value in values.items()}
        shape = self._shape_of()
        self._file.write(self._scope, rows if shape is None else rows | {_SHAPE: json.dumps(list(shape)).encode()})

    def _read(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """What the file has; processes that share an explanation all take what the first one finds."""
        file, scope = self._file, self._scope
        return {} if file is None or scope is None or not keys else agreed("ledger", lambda: file.read(scope, keys))


def _packed(value: Values) -> bytes:
    """Type, shape and entries of a tensor."""
    own = value.detach().cpu().contiguous().clone()
    head = json.dumps([str(own.dtype).removeprefix("torch."), list(own.shape)])
    return head.encode() + b"\n" + own.flatten().view(torch.uint8).numpy().tobytes()


def _unpacked(stored: bytes) -> Values:
    head, _, entries = stored.partition(b"\n")
    dtype, shape = json.loads(head)
    return torch.frombuffer(bytearray(entries), dtype=getattr(torch, dtype)).view(shape)
