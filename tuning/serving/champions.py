"""The champions in memory: loaded at first use, exchanged when MLflow's alias moves, the least recently used let go.

Everything but finding and loading runs in the server's event loop, so that no lock is needed around the numbers. A
request holds the model that it began with: the new one is loaded beside it, then takes its place, and the old one is
let go when its last request has ended.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import TypeVar

from storage.errors import DatasetNotFound, StorageError
from storage.records import Model
from storage.tracking import Tracking
from storage.workspace import Workspace
from tuning.errors import NoChampion, TuningError
from tuning.serving.loading import Loaded, find_champion, load_model

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Champions:
    """The models that serve.

    Args:
        background: where finding and loading run; with two threads at least, for a loading takes seconds.
    """

    def __init__(self, workspace: Workspace, background: Executor) -> None:
        self._workspace = workspace
        self._tracking = Tracking(workspace.settings)
        self._background = background
        self._keep = workspace.settings.serve_models
        self._resident: OrderedDict[str, Loaded] = OrderedDict()  # the one used last at the end
        self._loading = asyncio.Lock()  # one at a time: two would need the memory of two
        self.troubles: dict[str, str] = {}  # why a resident model could not be followed

    @asynccontextmanager
    async def use(self, dataset_name: str) -> AsyncIterator[Loaded]:
        """The dataset's champion, which stays loaded while the context lasts.

        Raises:
            DatasetNotFound, NoChampion, ModelNotFound, TrackingError, DatabaseUnavailable: as `find_champion` and
                `load_model`.
        """
        loaded = self._resident.get(dataset_name) or await self._first(dataset_name)
        if dataset_name in self._resident:
            self._resident.move_to_end(dataset_name)
        loaded.users += 1
        try:
            yield loaded
        finally:
            loaded.users -= 1
            _close_if_done(loaded)

    def serving(self, dataset_name: str) -> Model | None:
        """The model in memory; None where none is."""
        loaded = self._resident.get(dataset_name)
        return None if loaded is None else loaded.model

    @property
    def resident(self) -> tuple[str, ...]:
        """Datasets whose champion is in memory."""
        return tuple(self._resident)

    async def follow(self) -> None:
        """Look once where the aliases of the models in memory point, and exchange what has changed.

        What can't be asked at this moment goes on serving, and `troubles` says why.
        """
        for dataset_name in self.resident:
            try:
                await self._follow_one(dataset_name)
                self.troubles.pop(dataset_name, None)
            except (StorageError, TuningError) as error:
                if self.troubles.get(dataset_name) != str(error):
                    logger.warning("champion of '%s' not followed: %s", dataset_name, error)
                self.troubles[dataset_name] = str(error)

    async def _follow_one(self, dataset_name: str) -> None:
        try:
            model, threshold = await self._find(dataset_name)
        except (DatasetNotFound, NoChampion):
            self._let_go(dataset_name)
            return
        present = self._resident.get(dataset_name)
        if present is None:  # let go meanwhile
            return
        if present.model.version != model.version:
            async with self._loading:
                loaded = await self._load(model, threshold)
            if dataset_name in self._resident:
                self._put(dataset_name, loaded)
            else:
                loaded.close()
        else:
            present.threshold = threshold

    async def _first(self, dataset_name: str) -> Loaded:
        model, threshold = await self._find(dataset_name)
        async with self._loading:
            present = self._resident.get(dataset_name)
            if present is not None:
                return present
            loaded = await self._load(model, threshold)
            self._put(dataset_name, loaded)
        while len(self._resident) > self._keep:
            self._let_go(next(iter(self._resident)))
        return loaded

    def _put(self, dataset_name: str, loaded: Loaded) -> None:
        """Let a model take the place of the former one, which keeps its rank among those used last."""
        former = self._resident.get(dataset_name)
        self._resident[dataset_name] = loaded
        if former is not None:
            _retire(former)

    def _let_go(self, dataset_name: str) -> None:
        former = self._resident.pop(dataset_name, None)
        if former is not None:
            _retire(former)
        self.troubles.pop(dataset_name, None)

    async def _find(self, dataset_name: str) -> tuple[Model, float]:
        return await self._in_background(lambda: find_champion(self._workspace, self._tracking, dataset_name))

    async def _load(self, model: Model, threshold: float) -> Loaded:
        return await self._in_background(
            lambda: load_model(self._workspace, self._tracking, model, threshold)
        )

    async def _in_background(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._background, function)


def _retire(loaded: Loaded) -> None:
    loaded.retired = True
    _close_if_done(loaded)


def _close_if_done(loaded: Loaded) -> None:
    if loaded.retired and not loaded.users:
        loaded.close()
