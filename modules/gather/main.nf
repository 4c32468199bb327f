include { options } from '../shell'

// The chunks of one modality in one store, in the mosaic's order of cells
process GATHER {
    tag "${modality}"
    label 'process_low'
    label 'image_cpu'

    input:
    tuple val(modality), path(chunks, stageAs: 'chunks/*')
    path embedding
    val settings // [ zarr_format ]

    output:
    tuple val(modality), path("imputed/*.zarr"), emit: imputed
    path 'imputed/*.vitessce.json', emit: view
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    multivi-nf-gather-imputed --resources ${modality}.gather.resources.json ${chunks} --embedding=${embedding} \\
        ${options(settings)} --output=imputed/${modality}.zarr
    """

    stub:
    """
    mkdir -p imputed/${modality}.zarr
    touch imputed/${modality}.vitessce.json
    echo '{}' > ${modality}.gather.resources.json
    """
}
