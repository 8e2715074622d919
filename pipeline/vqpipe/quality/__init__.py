"""How good decoded images are: pixel by pixel, as people see them, and as a set.

    images.py      PSNR, SSIM, L1 of each pair; needs no weights
    lpips.py       perceptual distance of each pair, with the weights of LPIPS
    inception.py   features of each image, with FID's Inception; their statistics and distance are
                   `vqpipe.metrics.Moments` and `frechet_distance`
    checkpoint.py  the weights of either network, from one file, read strictly

No weights come with this package: LPIPS and FID are measured only where somebody gives the file.
"""
