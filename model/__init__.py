"""S-CMRL: network, training, checkpoints, media, preprocessing, explanations.

From a file to probabilities, without the service:

    from model import calibration, checkpoint
    from model.engine import Engine
    from model.engine.inputs import encode_batch
    from model.media.reader import read_clip
    from model.preprocess.prepare import prepare

    network, card = checkpoint.load("weights/avdigits")
    clip = read_clip(data, card.steps)  # data: the file's bytes
    prepared = prepare(card.streams, clip.sound, clip.pictures, card.steps)
    inputs = encode_batch([prepared], card.encoding, card.steps)  # [T or 1, 1, C, H, W] by stream
    output = Engine(network).run(inputs, card.steps)
    probabilities = calibration.calibrated(output, card, card.steps).softmax(1)  # [1, classes]
"""

import logging

# Torch warns on every import that Triton is missing, which is normal on a machine without a GPU.
logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
