"""What each process of a training in several runs: started by `launch` in a notebook, or on a cluster by hand; never imported.

torchrun --standalone --nproc_per_node=8 -m seglib.train.launch --params params/camvid.yaml -p batch_size=56
"""

import argparse
import json

from torch.distributed.elastic.multiprocessing.errors import record

from seglib.params import Train, check_chain, read_file, read_parameters
from seglib.runs import Run, resolve_path
from seglib.train.autotune import plan_training
from seglib.train.device import DevicePlan
from seglib.train.distributed import DistributedContext
from seglib.train.fitting import fit, open_dataset, start_run
from seglib.train.loader import build_cache
from seglib.train.model import build_model


def work(params: Train, plan: DevicePlan | None) -> None:
    """Do what 02_train does, in each process; without a plan the main process starts the run and plans for all."""
    context = DistributedContext.join(on_cpu=(plan or params).device == "cpu")
    params, dataset = open_dataset(params)
    if plan is None:
        context.broadcast(lambda: start_run(params))
    cached = {"long_side": params.long_side, "cache": params.cache}  # one process decodes, the others wait
    splits = [build_cache(dataset, name, original_masks=name == "val", **cached) for name in ("train", "val")]
    model = build_model(params, dataset.classes)
    if plan is None:
        asked = params.model_copy(update={"processes": context.size})
        plan = context.broadcast(lambda: plan_training(asked, model, *splits))
    fit(Run(Run.folder(params.run)), model, *splits, params, plan)
    context.leave()


@record  # torchrun then tells which error came first
def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(
        "seglib.train.launch", description="Train, in each process that torchrun starts."
    )
    parser.add_argument("--params", required=True, help="a parameter file of the chain, as for `seglib run`")
    parser.add_argument(
        "-p", action="append", default=[], metavar="NAME=VALUE", help="goes before the file's"
    )
    parser.add_argument("--plan", type=json.loads, help=argparse.SUPPRESS)  # of a run that has been started
    given = parser.parse_args()
    values = read_file(resolve_path(given.params)) | read_parameters(given.p)
    params = Train.check(check_chain(values)["02_train"])
    work(params, DevicePlan(**given.plan) if given.plan else None)


if __name__ == "__main__":
    main()
