"""Members share devices: each is lent to one at a time, and has no influence on what is learned."""

import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from prefect.artifacts import create_progress_artifact
from prefect.settings import PREFECT_API_URL, temporary_settings

from models.ensemble_fit import EnsembleConfig, FailedMember, fit_ensemble
from tasks.fit_members import DevicePool, _show, devices_like, fit_each_on
from tasks.steps import choose_device, train_as_of
from tests.models.conftest import (
    FEATURES,
    HISTORY_CHANNELS,
    make_config,
    make_equal_weights,
    make_history,
    make_normal_rows,
    make_training_rows,
)
from tests.tasks.test_fit import AS_OF
from tests.tasks.test_steps import make_context
from warehouse.errors import SettingsError

PROCESSORS = [torch.device("cpu", 0), torch.device("cpu", 1)]


def test_device_is_lent_to_one_at_a_time_and_comes_back_after_a_failure():
    pool, inside, most, ready = DevicePool(PROCESSORS), [], [], threading.Barrier(6)

    def use(number):
        ready.wait()
        for _ in range(50):
            try:
                with pool.lent() as device:
                    assert device not in inside
                    inside.append(device)
                    most.append(len(inside))
                    threading.Event().wait(0.0005)
                    inside.remove(device)
                    if number == 0:
                        raise RuntimeError("a member that fails")
            except RuntimeError:
                pass

    threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert (len(most), max(most)) == (300, 2)


def test_two_members_train_at_once_on_two_devices_and_a_third_waits():
    pool, seen, both = DevicePool(PROCESSORS), [], threading.Barrier(2)

    def use():
        with pool.lent() as device:
            both.wait(30)
            seen.append(device)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(str(device) for device in seen) == ["cpu:0", "cpu:0", "cpu:1", "cpu:1"]


NAMES = ("autoencoder", "gaussian", "recurrent", "tails")
CONFIG = EnsembleConfig(
    members={name: make_config(name) for name in NAMES},
    weights=make_equal_weights(NAMES),
    history_channels=HISTORY_CHANNELS,
)


def fit(device="cpu", **how):
    rows = make_training_rows(600, 1), make_training_rows(400, 2)
    return fit_ensemble(*rows, FEATURES, CONFIG, seed=0, device=device, **how)


def test_device_of_a_member_has_no_influence_on_what_it_learns():
    torch.set_num_threads(1)
    expected, reports = fit()
    told = []

    def watched(fit_one, names):
        def noted(name, on_epoch, device):
            told.append(device)
            return fit_one(name, on_epoch, device)

        return fit_each_on(PROCESSORS, 1)(noted, names)

    ensemble, others = fit(fit_each=watched)
    assert set(told) == set(PROCESSORS)
    assert list(others) == list(reports) == list(NAMES)
    x = make_normal_rows(50, 5)
    history = make_history(50, 5)
    assert torch.equal(
        ensemble.member_scores(x, history=history), expected.member_scores(x, history=history)
    )


def test_failed_member_is_told_in_its_place():
    def fit_one(name, _on_epoch, _device):
        return FailedMember(name, "too hot")

    names = ["b", "a", "c"]
    assert [one.name for one in fit_each_on(PROCESSORS, 1)(fit_one, names)] == names


@pytest.mark.filterwarnings("ignore:Artifact creation outside")
def test_server_that_refuses_to_show_a_training_is_told_without_its_address(caplog):
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        try:
            address = f"http://127.0.0.1:{server.server_port}/planted-secret/api"
            with temporary_settings({PREFECT_API_URL: address}):
                with pytest.raises(Exception, match="planted-secret"):
                    create_progress_artifact(0.0, "training")
                caplog.clear()
                assert _show(None, 0.0, "0 of 1 members fitted") is None
        finally:
            server.shutdown()
            answering.join()
    ours = [one.getMessage() for one in caplog.records if one.name == "tasks.fit_members"]
    assert ours == ["the progress of the training cannot be shown: PrefectHTTPStatusError"]


def test_processor_is_lent_once_for_each_worker():
    assert devices_like("cpu", 3) == [torch.device("cpu")] * 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_gpu_that_is_not_there_is_refused_and_auto_takes_the_processor(tmp_path):
    context = make_context(tmp_path, device="cuda")
    with pytest.raises(SettingsError, match=r"this machine has none .* set it to \"auto\""):
        choose_device(context)
    with pytest.raises(SettingsError, match="needs a CUDA device"):
        train_as_of.fn(context, AS_OF, aliased=True)
    assert not (tmp_path / "lake").exists(), "no work was begun"
    assert choose_device(replace(context, device="auto")) == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_members_train_on_every_gpu_and_come_back_to_one():
    devices = devices_like("cuda", 2)
    assert len(devices) == torch.cuda.device_count()
    ensemble, reports = fit("cuda", fit_each=fit_each_on(devices, 1))
    assert not reports.failures
    assert {one.device for one in ensemble.state_dict().values()} == {devices[0]}
    expected, _ = fit("cuda")
    x, history = make_normal_rows(50, 5), make_history(50, 5)
    found = ensemble.to("cpu").member_scores(x, history=history)
    torch.testing.assert_close(found, expected.to("cpu").member_scores(x, history=history))
