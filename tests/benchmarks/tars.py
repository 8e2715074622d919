"""JPEGs as photos are, in tars."""

import io
import random
import tarfile

from infra.demo.photos import PACKAGED, open_photo


def build_tars(folder, images, shards, seed=0):
    """Writes JPEGs of 500 x 375, cut from the packaged photos, in `shards` tars."""
    rng = random.Random(seed)
    photos = [open_photo(name) for name in PACKAGED]
    wide = [photo for photo in photos if photo.width >= 500 and photo.height >= 375]
    files = []
    for _ in range(200):
        photo = rng.choice(wide)
        left, top = rng.randint(0, photo.width - 500), rng.randint(0, photo.height - 375)
        buffer = io.BytesIO()
        photo.crop((left, top, left + 500, top + 375)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for i in range(shard * images // shards, (shard + 1) * images // shards):
                member = tarfile.TarInfo(f"{i:06d}.jpg")
                member.size = len(files[i % len(files)])
                tar.addfile(member, io.BytesIO(files[i % len(files)]))
    return folder
