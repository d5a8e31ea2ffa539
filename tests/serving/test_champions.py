"""Models in memory: loaded once, exchanged under requests, let go, and kept while nobody can be asked."""

import asyncio
import gc
import shutil
import sqlite3
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import mlflow
import pytest

from storage.errors import DatasetNotFound, ModelNotFound, TrackingError
from storage.settings import Settings
from storage.tracking import Tracking
from storage.workspace import open_workspace
from tuning.commands import delete_dataset, promote, withdraw_champion
from tuning.errors import NoChampion
from tuning.serving.champions import Champions

pytestmark = pytest.mark.slow


@pytest.fixture
def run(own_workspace):
    """Run a coroutine that gets the champions of an installation of its own."""

    def run(coroutine, **settings):
        changed = own_workspace.settings.model_copy(update=settings)
        workspace = open_workspace(Settings(**changed.model_dump()))
        with ThreadPoolExecutor(2) as background:
            try:
                return asyncio.run(coroutine(Champions(workspace, background)))
            finally:
                workspace.close()

    return run


def make_champion(workspace, version):
    promote(workspace, "parts", version, who="test", why="to see it followed")


async def version_of(champions, dataset="parts"):
    async with champions.use(dataset) as loaded:
        return loaded.model.version


def test_model_is_loaded_once_for_all_who_come_at_once(run):
    async def at_once(champions):
        async def mine():
            async with champions.use("parts") as loaded:
                return id(loaded.detector)

        return await asyncio.gather(*(mine() for _ in range(8)))

    assert len(set(run(at_once))) == 1


def test_new_champion_takes_over_and_the_old_one_is_let_go_after_its_last_request(run, own_workspace):
    async def move(champions):
        async with champions.use("parts") as old:
            detector = weakref.ref(old.detector)
            make_champion(own_workspace, 2)
            await champions.follow()
            assert await version_of(champions) == 2
            assert old.detector is not None  # this request goes on with what it began with
            assert old.model.version == 1
        gc.collect()
        assert detector() is None
        make_champion(own_workspace, 1)  # back
        await champions.follow()
        assert await version_of(champions) == 1

    run(move)


def test_followed_model_is_freed_without_waiting_for_the_garbage_collector(run, own_workspace):
    async def move(champions):
        await version_of(champions)
        gc.collect()
        gc.disable()
        try:
            async with champions.use("parts") as loaded:
                weights = weakref.ref(next(loaded.detector.extractor.net.parameters()))
            del loaded
            make_champion(own_workspace, 2)
            await champions.follow()
            assert weights() is None
        finally:
            gc.enable()

    run(move)


def test_loading_leaves_nothing_in_the_interpreter(run, own_workspace):
    async def move(champions):
        await version_of(champions)
        path, modules = list(sys.path), set(sys.modules)
        for version in (2, 1):
            make_champion(own_workspace, version)
            await champions.follow()
        assert sys.path == path
        assert not {name for name in set(sys.modules) - modules if name.startswith("code_model")}

    run(move)


def test_only_the_models_used_last_stay_in_memory(run):
    async def use_all(champions):
        await version_of(champions, "parts")
        await version_of(champions, "plates")
        return champions.resident

    assert run(use_all, serve_models=1) == ("plates",)
    assert run(use_all, serve_models=2) == ("parts", "plates")


def test_use_keeps_a_model_from_being_let_go(run, own_workspace):
    async def use_all(champions):
        await version_of(champions, "parts")
        await version_of(champions, "plates")
        await version_of(champions, "parts")
        make_champion(own_workspace, 2)
        await champions.follow()
        return champions.resident

    assert run(use_all) == ("plates", "parts")


def test_withdrawn_champion_stops_serving(run, own_workspace):
    async def withdraw(champions):
        await version_of(champions)
        withdraw_champion(own_workspace, "parts", who="test", why="blind")
        await champions.follow()
        assert champions.resident == ()
        with pytest.raises(NoChampion, match="has no champion"):
            await version_of(champions)
        with pytest.raises(DatasetNotFound):
            await version_of(champions, "bolts")
        delete_dataset(own_workspace, "parts", who="test")
        with pytest.raises(DatasetNotFound):
            await version_of(champions)

    run(withdraw)


def test_alias_moved_to_a_version_of_somebody_else_leaves_the_old_one_serving(run, own_workspace):
    tracking = Tracking(own_workspace.settings)
    mlflow.set_tracking_uri(own_workspace.settings.tracking_uri)  # where MLflow looks for the source

    async def move(champions):
        await version_of(champions)
        client = tracking.client
        source = client.get_model_version("parts", "1").source
        foreign = client.create_model_version("parts", source)  # registered by hand, unknown to us
        client.set_registered_model_alias("parts", "champion", foreign.version)
        await champions.follow()
        assert await version_of(champions) == 1
        assert "no model version 3" in champions.troubles["parts"]
        make_champion(own_workspace, 2)
        await champions.follow()
        assert champions.troubles == {}
        assert await version_of(champions) == 2

    run(move)

    async def first(champions):
        with pytest.raises(ModelNotFound, match="no model version 3"):
            await version_of(champions)

    tracking.client.set_registered_model_alias("parts", "champion", "3")
    run(first)


def test_damaged_new_champion_leaves_the_old_one_serving(run, own_workspace, tmp_path):
    folder = Tracking(own_workspace.settings).model_folder("parts", 2)
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    (spoilt / "artifacts" / "checkpoint" / "head.safetensors").write_bytes(b"spoilt")
    with closing(sqlite3.connect(own_workspace.settings.home / "mlflow.db")) as database, database:
        changed = database.execute(
            "UPDATE logged_models SET artifact_location = ? WHERE artifact_location LIKE ?",
            (spoilt.as_uri(), f"%{folder.parent.name}%"),
        )
        assert changed.rowcount == 1

    async def move(champions):
        await version_of(champions)
        make_champion(own_workspace, 2)
        await champions.follow()
        assert await version_of(champions) == 1
        assert "Version 2 of model 'parts' can't be loaded" in champions.troubles["parts"]

    run(move)

    async def first(champions):
        with pytest.raises(TrackingError, match=r"can't be loaded.*Promote another version"):
            await version_of(champions)

    run(first)


@pytest.mark.slow  # MLflow waits 20 s for a lock
def test_locked_database_of_mlflow_leaves_the_old_one_serving(run, own_workspace):
    async def locked(champions):
        await version_of(champions)
        with closing(sqlite3.connect(own_workspace.settings.home / "mlflow.db")) as lock:
            lock.execute("BEGIN EXCLUSIVE")
            await champions.follow()
            assert await version_of(champions) == 1
            assert "locked" in champions.troubles["parts"]
            with pytest.raises(TrackingError, match="ask for the champion of 'plates'"):
                await version_of(champions, "plates")
        await champions.follow()
        assert champions.troubles == {}
        assert await version_of(champions, "plates") == 1

    run(locked)
