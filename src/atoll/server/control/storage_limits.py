"""What operators can change about where checkpoints are kept, and for how long as what."""

from dataclasses import dataclass
from datetime import timedelta

GIB = 1024 * 1024 * 1024
MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class StorageLimits:
    """
    Checkpoints of paused sandboxes and snapshots on the disk, and what is removed by itself.

    Attributes:
        pack: whether checkpoints are cut into runs of pages by their content, of which each is kept once,
            compressed, for all of them. Without, all stay as the runtime wrote them; what is packed can
            still be unpacked.
        pack_after: how old a checkpoint is before it is packed: one that is resumed at once is not worth it.
        pack_every: pause between looks for the next one. They are packed one at a time, behind everything
            else that wants the processor or the disk.
        pack_bytes_a_second: what packing does at least, for its time limit; 100 MB took 1.5 s on one core of
            its own, and may take minutes behind others.
        raw_bytes: packed checkpoints also stay as the runtime wrote them, to be restored without unpacking,
            those that were written or restored last, up to so many bytes. Where the disk has less than
            ``reserve_bytes``, none do.
        reserve_bytes: what packing and unpacking leave free on the home's disk. It is more than
            ``gvisor.least_free_disk_bytes``, so that starts and pauses go on where packing stops.
        unpack_bytes_a_second: what unpacking does at least, for its time limit, beside ``unpack_timeout``;
            300 MB a second were seen from a disk.
        unpack_timeout: for unpacking a small one.
        sweep_every: pause between the removals of runs that no checkpoint names, while checkpoints go. Each
            reads the names of all that are kept.
        sweep_timeout: for one of these.
        collect_every: pause between collections of all that nobody needs, as ``atoll gc`` does; 0: none.
        s3_endpoint: URL of a server that speaks S3, "https://s3.example.com"; runs are then kept there
            instead of in the home's ``blobs/``. Empty: in the home. After a change, what was packed before
            cannot be unpacked.
        s3_bucket: a bucket that is there.
        s3_region: its region; empty where the server has none.
        s3_prefix: what the names of the home's objects there begin with, before the home's id.
        s3_access_key: who uses it.
        s3_secret_key: the proof. ``ATOLL_STORAGE_S3_SECRET_KEY`` keeps it out of the file of settings.
        s3_roots: file with authorities, in PEM form, that may have signed the server's certificate, beside
            those that this host trusts; empty: none.
        s3_timeout: for one call, which carries 128 KiB at the most; it is tried four times.
    """

    pack: bool = True
    pack_after: timedelta = timedelta(seconds=30)
    pack_every: timedelta = timedelta(seconds=5)
    pack_bytes_a_second: int = MIB
    raw_bytes: int = 16 * GIB
    reserve_bytes: int = 2 * GIB
    unpack_bytes_a_second: int = 16 * MIB
    unpack_timeout: timedelta = timedelta(seconds=30)
    sweep_every: timedelta = timedelta(seconds=60)
    sweep_timeout: timedelta = timedelta(minutes=10)
    collect_every: timedelta = timedelta(hours=1)
    s3_endpoint: str = ""
    s3_bucket: str = ""
    s3_region: str = ""
    s3_prefix: str = "atoll"
    s3_access_key: str = ""
    s3_secret_key: str = ""
    s3_roots: str = ""
    s3_timeout: timedelta = timedelta(seconds=30)
