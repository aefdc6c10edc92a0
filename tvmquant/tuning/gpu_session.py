"""The process that runs candidates on the GPU of this machine."""

from __future__ import annotations

import tvm

from tvmquant.errors import TargetError
from tvmquant.runtime.gpu import FLUSH, local_gpu, offer_flush, why_no_gpu
from tvmquant.targets.device import Device
from tvmquant.tuning.remote_session import Answer, answer_to
from tvmquant.tuning.session import CandidateError, Job, measured, where
from tvmquant.tuning.timing import is_healthy


class GpuSession:
    """One candidate after the other; a process of its own, see :func:`is_healthy`."""

    def open(self, device: Device) -> str:
        """Get ready, and return the name of the GPU.

        Raises
        ------
        TargetError
            If there is none that runs code for ``device``.
        """
        gpu = local_gpu()
        reason = why_no_gpu(device.cuda_archs, gpu)
        if reason or gpu is None:
            raise TargetError(reason or "no GPU")
        offer_flush()
        return gpu.name

    def run(self, job: Job, library: str, best: float) -> Answer:
        """Load a candidate, run it once, check its output, and time it.

        Parameters as in :meth:`tvmquant.tuning.remote_session.BoardSession.run`.
        """
        device = where(job.device)
        try:
            module = tvm.runtime.load_module(library)
            return Answer("time", measured(job, module, device, best, FLUSH))
        except CandidateError as error:
            return answer_to(error)
        except Exception as error:
            # What CUDA says comes first, then where TVM noticed.
            text = " ".join(str(error).split())[:300] or type(error).__name__
            return Answer("failed" if is_healthy(device) else "lost", text=text)
