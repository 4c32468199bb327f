include { options ; threads } from '../shell'

// One modality of one chunk of cells: posterior mean, spread, credible interval
process IMPUTE {
    tag "${modality} ${chunk.baseName}"
    label 'process_low'
    label 'image_cuda'
    label 'process_gpu'

    input:
    tuple val(run), val(modality), path(chunk), path(mosaic), path(model)
    path features, stageAs: 'features/*' // list of features, or []
    val settings                         // [ samples, batch, predictive, seed, device ]

    output:
    tuple val(run), val(modality), path("*.zarr"), emit: imputed
    tuple val(run), path('*.resources.json'), emit: cost, topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    ${threads(task.cpus)}
    multivi-nf-impute --resources ${modality}.${chunk.baseName}.impute.resources.json ${mosaic} ${model} \\
        --modality=${modality} --cells=${chunk} ${options(features: features)} ${options(settings)} \\
        --output=${modality}.${chunk.baseName}.zarr
    """

    stub:
    """
    mkdir ${modality}.${chunk.baseName}.zarr
    echo '{}' > ${modality}.${chunk.baseName}.impute.resources.json
    """
}
