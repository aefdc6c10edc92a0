"""Default schedules: small rules tried in order for every PrimFunc that has none yet."""

from tvmquant.schedules.default.driver import Scheduled, schedule_function

__all__ = ["Scheduled", "schedule_function"]
