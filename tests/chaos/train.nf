/*
 * TRAIN alone, as the pipeline configures it, on a mosaic that is there: what is killed here is killed in minutes, not hours.
 *   nextflow -C nextflow.config run tests/chaos/train.nf --mosaic X.h5mu --outdir results
 */
include { TRAIN } from '../../modules/train/main'

workflow {
    settings = [seed: 0, max_epochs: params.epochs as int, device: 'cpu', batch_size: 64, n_devices: params.n_devices, n_nodes: params.n_nodes]
    TRAIN([[:], file(params.mosaic, checkIfExists: true, glob: false)], [], settings)
}
