include { options } from '../shell'

// The results as other tools open them: one h5ad a modality, tables of cells, clusters and markers
process EXPORT {
    label 'process_medium'
    label 'image_cpu'

    input:
    path embedding
    path imputed, stageAs: 'imputed/*' // [ modality.zarr ] or []
    path links, stageAs: 'links/*'     // links.tsv.gz or []
    val settings                       // [ h5ad, explorer_size, title ]

    output:
    path 'h5ad/*', emit: h5ad, optional: true
    path '*.{tsv,tsv.gz}', emit: tables
    path 'markers/*', emit: markers
    path 'explorer.html', emit: explorer, optional: true
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    multivi-nf-export --resources export.resources.json ${embedding} ${imputed} \\
        ${options(links: links)} ${options(settings)} --output=.
    """

    stub:
    """
    mkdir -p h5ad markers
    touch cells.tsv.gz clusters.tsv explorer.html markers/rna.tsv.gz h5ad/rna.h5ad
    echo '{}' > export.resources.json
    """
}
