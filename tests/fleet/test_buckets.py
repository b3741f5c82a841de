"""The pipeline in buckets, SQS with S3 and a file queue with Google's storage, gives the same bytes as on disk."""

import json

import boto3
import pytest
from cloudfiles import CloudFiles
from five_balls import assert_same_somas, digest, flysoma, write_config, write_image
from object_stores import AWS, moto

from flysoma.tasks.fleet.queues import open_queue
from flysoma.tasks.run import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """S3 and SQS with a bucket, a queue `tasks` with the dead-letter queue `dead`, and planted secrets."""
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    secrets = tmp_path / "home/.cloudvolume/secrets"
    secrets.mkdir(parents=True)
    (secrets / "cave-secret.json").write_text('{"token": "planted-cave"}')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with moto() as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        boto3.client("s3").create_bucket(Bucket="bucket")
        sqs = boto3.client("sqs")
        dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])
        policy = {"deadLetterTargetArn": arn["Attributes"]["QueueArn"], "maxReceiveCount": 50}
        sqs.create_queue(QueueName="tasks", Attributes={"RedrivePolicy": json.dumps(policy)})
        yield sqs


def hold_no_secret(bucket, *output):
    """Assert that neither the objects of a run nor its output contain a planted secret."""
    objects = CloudFiles(f"{bucket}/run", progress=False)
    texts = [item["content"] for item in objects.get(list(objects.list()))]
    assert len(texts) > 100
    assert not any(b"planted" in text for text in [*texts, *(s.encode() for s in output)])


def run_through(volume, undisturbed, name, bucket, queue):
    """Run from bucket to bucket and compare with the undisturbed run on disk."""
    write_image(f"{bucket}/em")
    config = write_config(volume, name, 64, image=f"{bucket}/em", output=f"{bucket}/run")
    done = flysoma("run", config, "--workers", "2", "--queue", queue)
    assert done.returncode == 0, done.stderr
    assert_same_somas(f"{bucket}/run/somas", undisturbed / "somas")
    assert digest(f"{bucket}/run/tables") == digest(undisturbed / "tables")
    store = Run.open(f"{bucket}/run").store
    assert store.get_json("coordinator.json") is None and not store.names("running/")
    assert "finished" in flysoma("status", f"{bucket}/run").stdout.splitlines()[-2]
    assert json.loads(flysoma("status", f"{bucket}/run", "--json").stdout)[-1]["finished"]
    hold_no_secret(bucket, done.stdout, done.stderr)


@pytest.mark.sqs_s3
def test_from_s3_to_s3_through_sqs(aws, volume, undisturbed):
    run_through(volume, undisturbed, "aws", "s3://bucket", "sqs://tasks")


@pytest.mark.fq_gcs
def test_from_google_to_google_through_a_file_queue(gcs, volume, undisturbed, tmp_path):
    run_through(volume, undisturbed, "google", "gs://bucket/balls", f"fq://{tmp_path}/queue")


def test_poison_in_sqs_goes_to_the_dead_letters(aws):
    """The body of the message is kept."""
    url = aws.get_queue_url(QueueName="tasks")["QueueUrl"]
    bodies = ["not json", json.dumps([1]), json.dumps({"payload": [["os", "system"], ["x"], {}]})]
    for body in bodies:
        aws.send_message(QueueUrl=url, MessageBody=body)
    queue = open_queue("sqs://tasks")
    queue.put([("s3://bucket/run", "locate", 7)])
    leases = [lease for lease in (queue.lease(30) for _ in range(4)) if lease]
    assert [(lease.run, lease.stage, lease.index) for lease in leases] == [
        ("s3://bucket/run", "locate", 7)
    ]
    queue.renew(leases[0], 0)
    again = queue.lease(30)
    queue.delete(again)
    assert queue.is_empty()
    dead = aws.get_queue_url(QueueName="dead")["QueueUrl"]
    there = aws.receive_message(QueueUrl=dead, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in there) == sorted(bodies)


def test_a_queue_that_is_not_there_is_one_line(aws):
    done = flysoma("work", "sqs://nowhere")
    assert done.returncode == 2 and "sqs://nowhere" in done.stderr
    assert done.stderr.count("\n") <= 2
