"""Many questions on Kubernetes: pods of one image, which may be evicted at any time.

Shared by all: the image (with this package, distributed and s3fs), the address of the corpus in an object store, a
secret with the keys. Not shared, and no volume is needed: the texts (each process reads them and checks their digest),
converted files and replies (in the pod; a new pod pays again for the calls of a question that was begun), the answers.

Needs dask-kubernetes here and its operator in the cluster. Repeat it to go on after it was ended.

python examples/cluster_kubernetes.py QUESTIONS ANSWERS s3://BUCKET/FOLDER IMAGE [MODEL]

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import sys
from pathlib import Path

from dask_kubernetes.operator import KubeCluster, make_cluster_spec
from distributed import Client

from rlm_dspy.batch import Answers, Batch, Job
from rlm_dspy.batch.dask_pace import share_pace

MOST_PODS = 64


def worker_spec(image: str) -> dict:
    """Return the cluster's description: one thread a pod, and the keys from the secret model-keys."""
    spec = make_cluster_spec(
        name="questions",
        image=image,
        n_workers=1,
        resources={"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
        worker_command="dask-worker --nthreads 1",
    )
    for container in spec["spec"]["worker"]["spec"]["containers"]:
        container["envFrom"] = [{"secretRef": {"name": "model-keys"}}]
    return spec


def main(questions: str, answers: str, path: str, image: str, model: str = "openai/gpt-4o-mini") -> str:
    """Ask the questions, one a line, about the files at the address."""
    cluster = KubeCluster(custom_cluster_spec=worker_spec(image))
    with cluster, Client(cluster) as client:
        cluster.adapt(minimum=1, maximum=MOST_PODS)
        job = Job("context, question -> answer", (path,), model, pace=share_pace(client))
        out = Answers(Path(answers), resume=True)
        # Enough in flight that the pods which start late find work.
        batch = Batch(job, out=out, executor=client.get_executor(), concurrency=MOST_PODS, max_cost=100.0)
        report = batch.run(Path(questions).read_text().splitlines())
    return f"{report.success_rate:.0%} answered, {report.reused} of them before"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
