include { options ; threads } from '../shell'

// All cells of all samples in one file; a cell is absent from a modality that it was not measured in
process MOSAIC {
    label 'process_low'
    label 'process_high_memory'
    label 'image_cpu'

    input:
    path samples                       // samples.json
    path cells, stageAs: 'cells/*'     // [ S.modality.h5ad ] in samplesheet order, rna, atac, protein within a sample
    path reference, stageAs: 'reference/*'
    path aliases, stageAs: 'aliases/*' // spellings of features, or []
    val settings                       // [ min_cells_fraction, ... ]

    output:
    path 'mosaic.h5mu', emit: mosaic
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    def inputs = (cells instanceof List ? cells : [cells]).collect { file -> "--inputs=${file}" }.join(' ')
    """
    ${threads(task.cpus)}
    multivi-nf-mosaic --resources mosaic.resources.json --samples=${samples} ${inputs} \\
        ${options(reference: reference, feature_aliases: aliases)} ${options(settings)} --output=mosaic.h5mu
    """

    stub:
    """
    touch mosaic.h5mu
    echo '{}' > mosaic.resources.json
    """
}
