"""How far a training is stands in Prefect's pages, and members train side by side there."""

from datetime import timedelta

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

from flows.train import train
from tests.flows.conftest import AS_OF


def test_progress_counts_the_members_that_are_fitted(project):
    text = project.read_text()
    project.write_text(text.replace('members = ["gaussian"]', 'members = ["gaussian", "tails"]'))
    trained = train(project, AS_OF - timedelta(days=1))
    assert (trained.alias, trained.failed_members) == ("challenger", "")
    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=["training"]))
    with get_client(sync_client=True) as client:  # Artifact.get leaves its connection open
        found = client.read_artifacts(artifact_filter=wanted)
    shown = max(found, key=lambda one: one.created)
    assert (shown.type, float(shown.data)) == ("progress", 100.0)
    assert shown.description.startswith("2 of 2 members fitted, the last one ")
    assert shown.flow_run_id is not None
    assert shown.task_run_id is not None
