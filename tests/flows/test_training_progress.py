"""How far a training is stands in Prefect's pages, and members train side by side there."""

from datetime import timedelta

from prefect.artifacts import Artifact

from flows.train import train
from tests.flows.conftest import AS_OF


def test_progress_counts_the_members_that_are_fitted(project):
    text = project.read_text()
    project.write_text(text.replace('members = ["gaussian"]', 'members = ["gaussian", "tails"]'))
    trained = train(project, AS_OF - timedelta(days=1))
    assert (trained.alias, trained.failed_members) == ("challenger", "")
    shown = Artifact.get("training")
    assert shown is not None
    assert (shown.type, float(shown.data)) == ("progress", 100.0)
    assert shown.description.startswith("2 of 2 members fitted, the last one ")
    assert shown.flow_run_id is not None
    assert shown.task_run_id is not None
