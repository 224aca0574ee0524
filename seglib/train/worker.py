"""The entry point of each process in a training by several: started by `fit`, or by torchrun by hand; never imported.

torchrun --standalone --nproc_per_node=8 -m seglib.train.worker --params params/camvid.yaml -p batch_size=56
"""

import argparse
import json
import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from seglib import train
from seglib.params import Train, check_chain, read_file, read_parameters
from seglib.runs import Run, resolve_path


@record  # torchrun then tells which error came first
def main() -> None:
    """Do what 02_train does, in each process; without a plan the main process starts the run and plans for all."""
    parser = argparse.ArgumentParser("seglib.train.worker", description="Train, in each process of torchrun.")
    parser.add_argument("--params", required=True, help="a parameter file, as for `seglib run`")
    parser.add_argument("-p", action="append", default=[], metavar="NAME=VALUE", help="replaces the file's")
    parser.add_argument("--plan", type=json.loads, help=argparse.SUPPRESS)  # of a run that has been started
    given = parser.parse_args()
    values = read_file(resolve_path(given.params)) | read_parameters(given.p)
    params = Train.check(check_chain(values)["02_train"])
    plan = train.DevicePlan(**given.plan) if given.plan else None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if gpu := torch.cuda.is_available() and (plan or params).device != "cpu":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # It may take days until one process has decoded a million images; torchrun ends all when one dies.
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=timedelta(days=3))
    context = train.DistributedContext.current()
    params, dataset = train.open_dataset(params)
    if plan is None:
        context.broadcast(lambda: train.start_run(params))
    splits = train.open_splits(dataset, params)  # one process decodes, the others wait
    model = train.build_model(params, dataset.classes)
    if plan is None:
        asked = params.model_copy(update={"processes": context.size})
        plan = context.broadcast(lambda: train.plan_training(asked, model, splits[0]))
    train.fit(Run(Run.folder(params.run)), model, *splits, params, plan)
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
